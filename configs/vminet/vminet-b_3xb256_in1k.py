_base_ = './vminet-xs_3xb256_in1k.py'

model = dict(
    backbone=dict(arch='b'), neck=dict(in_channels=768), head=dict(in_channels=768)
)
