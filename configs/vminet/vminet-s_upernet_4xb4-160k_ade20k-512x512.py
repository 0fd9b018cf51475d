_base_ = [
    '../_base_/seg/models/upernet.py',
    '../_base_/seg/datasets/ade20k_512x512.py',
    '../_base_/seg/schedules/160k.py',
    '../_base_/seg/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.VMINet',
        arch='s',
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
