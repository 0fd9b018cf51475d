_base_ = './vminet-xs_3xb256_in1k.py'

model = dict(
    backbone=dict(arch='ti'), neck=dict(in_channels=192), head=dict(in_channels=192)
)
