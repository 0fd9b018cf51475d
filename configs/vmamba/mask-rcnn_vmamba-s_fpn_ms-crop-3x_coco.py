_base_ = './mask-rcnn_vmamba-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.3,
    ),
)
