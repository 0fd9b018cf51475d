_base_ = ['./_base_/upernet_camvid.py', './_base_/swin.py']

model = dict(
    backbone=_base_.swin,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
