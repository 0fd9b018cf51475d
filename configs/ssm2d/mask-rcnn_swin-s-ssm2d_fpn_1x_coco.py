_base_ = './mask-rcnn_swin-t-ssm2d_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        host=dict(
            depths=(2, 2, 18, 2),
            init_cfg=dict(checkpoint='checkpoints/swin_small_patch4_window7_224.pth'),
        ),
    ),
)
