# UPerNet 160k on ADE20K with Swin's exemptions from weight decay and those of the
# released 2-D SSM: B and C, but not A.
_base_ = [
    '../../_base_/seg/models/upernet.py',
    '../../_base_/seg/datasets/ade20k_512x512.py',
    '../../_base_/seg/schedules/160k.py',
    '../../_base_/seg/runtime.py',
]

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'absolute_pos_embed': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
            'mix.gain': dict(decay_mult=0.0),
            'ssm2d.B': dict(decay_mult=0.0),
            'ssm2d.C': dict(decay_mult=0.0),
        }
    )
)
