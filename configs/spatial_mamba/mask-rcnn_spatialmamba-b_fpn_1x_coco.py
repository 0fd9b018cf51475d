_base_ = './mask-rcnn_spatialmamba-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.5,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
