_base_ = [
    '../_base_/seg/models/upernet.py',
    '../_base_/seg/datasets/ade20k_512x512.py',
    '../_base_/seg/schedules/160k.py',
    '../_base_/seg/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.SpatialMamba',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)

# The published recipe exempts names with 'norm' from weight decay, but not the two
# LayerNorms at the head of a block.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(norm1=dict(decay_mult=1.0), norm2=dict(decay_mult=1.0))
    )
)
