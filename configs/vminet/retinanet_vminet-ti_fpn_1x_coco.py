_base_ = [
    '../_base_/det/models/retinanet_fpn.py',
    '../_base_/det/datasets/coco_detection.py',
    '../_base_/det/schedules/1x.py',
    '../_base_/det/runtime.py',
]

# No weights of Ti were released: without an init_cfg it starts from random ones.
model = dict(
    backbone=dict(type='mmssm.VMINet', arch='ti'),
    neck=dict(in_channels=[24, 48, 96, 192]),
)
