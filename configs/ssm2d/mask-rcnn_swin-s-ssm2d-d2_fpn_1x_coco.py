_base_ = './mask-rcnn_swin-s-ssm2d_fpn_1x_coco.py'

model = dict(backbone=dict(directions=2))
