# The published 1x trains with the augmentation of 3x.
_base_ = [
    '../_base_/det/models/mask_rcnn_fpn.py',
    '../_base_/det/datasets/coco_instance_ms_crop.py',
    '../_base_/det/schedules/1x.py',
    '../_base_/det/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.MILA',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

# half of the usual warm-up
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11]),
]
