_base_ = './swin-t-ssm2d_upernet_4xb4-160k_ade20k-512x512.py'

model = dict(backbone=dict(directions=2))
