_base_ = './mask-rcnn_vminet-xs_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch='s'),
)
