_base_ = ['../demo/_base_/upernet_shapes.py', './_base_/vmamba.py']

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
