_base_ = './_base_/ade20k_160k.py'

model = dict(
    backbone=dict(
        type='mmssm.SSM2DHost',
        host=dict(
            type='mmseg.VisionTransformer',
            img_size=(512, 512),
            patch_size=16,
            patch_bias=True,
            embed_dims=384,
            num_layers=12,
            num_heads=6,
            out_indices=(2, 5, 8, 11),
            drop_path_rate=0.1,
            norm_cfg=dict(type='LN', eps=1e-6),
            init_cfg=dict(
                type='Pretrained',
                checkpoint='checkpoints/deit_small_patch16_224_mmseg.pth',
            ),
        ),
        start='identity',
        directions=4,
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0))
    )
)
