_base_ = '../_base_/cls/cifar100.py'

model = dict(
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=96, depths=[2, 6, 4], num_heads=[3, 6, 12]),
        img_size=32,
        patch_size=2,
        window_size=4,
        drop_path_rate=0.1,
        out_indices=(2,),
        use_abs_pos_embed=True,
        stage_cfgs=dict(block_cfgs=dict(ffn_ratio=2)),
    ),
    head=dict(in_channels=384),
)
