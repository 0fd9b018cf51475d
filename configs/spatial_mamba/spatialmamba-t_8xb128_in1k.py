_base_ = '../_base_/cls/imagenet_300e.py'

model = dict(
    backbone=dict(
        type='mmssm.SpatialMamba', arch='tiny', drop_path_rate=0.2, out_indices=(3,)
    ),
    head=dict(in_channels=512),
)

# self-distillation from the moving average, from a quarter of the epochs on
custom_hooks = [dict(type='mmssm.MESAHook', weight=1.0, begin=0.25, momentum=1e-4)]
