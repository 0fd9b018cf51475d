_base_ = [
    '../_base_/seg/models/semantic_fpn.py',
    '../_base_/seg/datasets/ade20k_512x512.py',
    '../_base_/seg/schedules/80k.py',
    '../_base_/seg/runtime.py',
]

# No weights of Ti were released: without an init_cfg it starts from random ones.
model = dict(
    backbone=dict(type='mmssm.VMINet', arch='ti'),
    neck=dict(in_channels=[24, 48, 96, 192]),
)
