_base_ = './_base_/coco_1x.py'

model = dict(
    backbone=dict(
        type='mmssm.SSM2DHost',
        host=dict(
            type='mmdet.SwinTransformer',
            drop_path_rate=0.2,
            convert_weights=True,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='checkpoints/swin_tiny_patch4_window7_224.pth',
            ),
        ),
        start='identity',
        directions=4,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
