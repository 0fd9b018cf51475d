# The recipe was not published: DeiT's, without drop path and repeated augmentation.
_base_ = '../_base_/cls/imagenet_300e.py'

model = dict(
    backbone=dict(
        type='mmssm.Mega',
        arch='tiny',
        mixer='ssm2d',
        train_size=224,
        pyramid=False,
        out_indices=(3,),
    ),
    neck=dict(_delete_=True, type='mmssm.NormedPooling', in_channels=192, project=True),
    head=dict(in_channels=192),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, by_epoch=True, begin=0, end=300),
]
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'stem.position': dict(decay_mult=0.0),
            'mixer.B': dict(decay_mult=0.0),
            'mixer.C': dict(decay_mult=0.0),
        }
    )
)
