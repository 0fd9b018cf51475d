_base_ = './_base_/coco_1x.py'

model = dict(
    backbone=dict(
        type='mmssm.Mega',
        arch='tiny',
        mixer='ssm2d',
        drop_path_rate=0.1,
        with_cp=True,  # 4200 pixels at stride 16 attend to each other
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),
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
