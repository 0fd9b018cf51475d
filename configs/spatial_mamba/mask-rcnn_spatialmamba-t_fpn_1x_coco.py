_base_ = [
    '../_base_/det/models/mask_rcnn_fpn.py',
    '../_base_/det/datasets/coco_instance.py',
    '../_base_/det/schedules/1x.py',
    '../_base_/det/runtime.py',
]

model = dict(
    backbone=dict(
        type='mmssm.SpatialMamba',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='official'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

# The published recipe exempts names with 'norm' from weight decay, but not the two
# LayerNorms at the head of a block.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(norm1=dict(decay_mult=1.0), norm2=dict(decay_mult=1.0))
    )
)
