_base_ = './_base_/ade20k_160k.py'

model = dict(
    backbone=dict(
        type='mmssm.Mega',
        arch='tiny',
        mixer='ssm2d',
        train_size=512,
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'stem.position': dict(decay_mult=0.0),
            'mixer.B': dict(decay_mult=0.0),
            'mixer.C': dict(decay_mult=0.0),
        }
    )
)
