_base_ = ['./_base_/upernet_camvid.py', './_base_/mila.py']

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
