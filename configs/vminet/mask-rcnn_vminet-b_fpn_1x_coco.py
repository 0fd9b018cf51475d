_base_ = './mask-rcnn_vminet-xs_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='b', init_cfg=dict(checkpoint='checkpoints/vminet/B-ckpt.pth.tar')
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
