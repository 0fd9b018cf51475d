_base_ = './swin-t-ssm2d_upernet_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        host=dict(
            depths=(2, 2, 18, 2),
            init_cfg=dict(
                checkpoint='checkpoints/swin_small_patch4_window7_224_mmseg.pth'
            ),
        ),
    ),
)
