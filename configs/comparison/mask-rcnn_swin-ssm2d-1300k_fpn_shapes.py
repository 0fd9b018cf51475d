_base_ = ['../demo/_base_/mask-rcnn_fpn_shapes.py', './_base_/swin-ssm2d.py']

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.channels),
)
