_base_ = './vminet-s_upernet_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='b'),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
