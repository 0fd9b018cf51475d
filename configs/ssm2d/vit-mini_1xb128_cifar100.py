_base_ = '../_base_/cls/cifar100.py'

model = dict(
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=192, num_layers=9, num_heads=12, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        qkv_bias=False,
        drop_path_rate=0.1,
    ),
    neck=None,
    head=dict(type='VisionTransformerClsHead', in_channels=192),
)
