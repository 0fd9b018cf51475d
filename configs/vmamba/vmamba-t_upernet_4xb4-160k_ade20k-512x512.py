_base_ = [
    '../_base_/seg/models/upernet.py',
    '../_base_/seg/datasets/ade20k_512x512.py',
    '../_base_/seg/schedules/160k.py',
    '../_base_/seg/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.VMamba',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

# The published recipe exempts names with 'norm' from weight decay; in the released
# model the norms of the stem and of the downsampling have no such names.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'stem.': dict(decay_mult=1.0),
            'downsample.': dict(decay_mult=1.0),
        }
    )
)
