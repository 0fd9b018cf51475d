_base_ = [
    '../_base_/det/models/mask_rcnn_fpn.py',
    '../_base_/det/datasets/coco_instance_ms_crop.py',
    '../_base_/det/schedules/3x.py',
    '../_base_/det/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.VMamba',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
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
