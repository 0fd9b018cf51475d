_base_ = '../_base_/cls/imagenet_300e.py'

model = dict(
    backbone=dict(
        type='mmssm.VMamba', arch='tiny', drop_path_rate=0.2, out_indices=(3,)
    ),
    head=dict(in_channels=768),
)

# D is a vector in the released code, and vectors are not decayed
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'ssm.D': dict(decay_mult=0.0)}))
custom_hooks = [dict(type='EMAHook', momentum=1e-4, update_buffers=True)]
