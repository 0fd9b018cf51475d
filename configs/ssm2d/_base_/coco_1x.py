# Mask R-CNN 1x on COCO with Swin's exemptions from weight decay and those of the
# released 2-D SSM: B and C, but not A.
_base_ = [
    '../../_base_/det/models/mask_rcnn_fpn.py',
    '../../_base_/det/datasets/coco_instance.py',
    '../../_base_/det/schedules/1x.py',
    '../../_base_/det/runtime.py',
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
