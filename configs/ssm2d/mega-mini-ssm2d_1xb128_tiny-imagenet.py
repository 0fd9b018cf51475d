_base_ = '../_base_/cls/tiny_imagenet.py'

model = dict(
    backbone=dict(
        type='mmssm.Mega',
        arch=dict(
            channels=(192, 192, 192, 192),
            depths=(2, 2, 2, 3),
            patch=8,
            shared=192,
            expanded=192,
            hidden=192,
        ),
        mixer='ssm2d',
        num_ssms=8,
        num_states=16,
        train_size=64,
        pyramid=False,
        out_indices=(3,),
    ),
    neck=dict(_delete_=True, type='mmssm.NormedPooling', in_channels=192, project=True),
    head=dict(in_channels=192),
)
