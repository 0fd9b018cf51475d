_base_ = [
    '../_base_/seg/models/upernet.py',
    '../_base_/seg/datasets/ade20k_512x512.py',
    '../_base_/seg/schedules/160k.py',
    '../_base_/seg/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.MILA',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
