_base_ = './_base_/upernet_shapes.py'

model = dict(
    backbone=dict(
        type='mmssm.VMamba', arch=dict(channels=24, depths=(1, 1, 2, 1), expand=2)
    ),
    decode_head=dict(in_channels=[24, 48, 96, 192]),
    auxiliary_head=dict(in_channels=96),
)
