_base_ = './retinanet_vminet-ti_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='xs',
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
