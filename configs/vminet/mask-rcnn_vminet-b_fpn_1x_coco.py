_base_ = './mask-rcnn_vminet-xs_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch='b'),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
