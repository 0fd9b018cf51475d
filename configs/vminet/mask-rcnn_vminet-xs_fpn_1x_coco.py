_base_ = [
    '../_base_/det/models/mask_rcnn_fpn.py',
    '../_base_/det/datasets/coco_instance.py',
    '../_base_/det/schedules/1x.py',
    '../_base_/det/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.VMINet',
        arch='xs',
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
