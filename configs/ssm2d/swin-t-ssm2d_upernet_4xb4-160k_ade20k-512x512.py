_base_ = './_base_/ade20k_160k.py'

model = dict(
    backbone=dict(
        type='mmssm.SSM2DHost',
        host=dict(
            type='mmseg.SwinTransformer',
            drop_path_rate=0.3,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='checkpoints/swin_tiny_patch4_window7_224_mmseg.pth',
            ),
        ),
        start='identity',
        directions=4,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
