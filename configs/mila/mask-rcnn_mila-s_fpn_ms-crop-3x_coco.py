_base_ = './mask-rcnn_mila-t_fpn_ms-crop-3x_coco.py'

model = dict(backbone=dict(arch='small'))
