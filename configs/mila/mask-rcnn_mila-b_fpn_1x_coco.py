_base_ = './mask-rcnn_mila-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch='base'),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
