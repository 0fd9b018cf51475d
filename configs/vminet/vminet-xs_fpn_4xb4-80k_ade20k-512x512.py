_base_ = './vminet-ti_fpn_4xb4-80k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='xs',
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
