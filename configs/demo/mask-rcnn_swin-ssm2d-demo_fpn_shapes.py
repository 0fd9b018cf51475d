_base_ = './_base_/mask-rcnn_fpn_shapes.py'

model = dict(
    backbone=dict(
        type='mmssm.SSM2DHost',
        host=dict(
            type='mmdet.SwinTransformer',
            embed_dims=24,
            depths=(1, 1, 3, 1),
            num_heads=(1, 2, 4, 8),
            window_size=4,
            drop_path_rate=0.0,
        ),
        start='published',
        num_states=8,
    ),
    neck=dict(in_channels=[24, 48, 96, 192]),
)
