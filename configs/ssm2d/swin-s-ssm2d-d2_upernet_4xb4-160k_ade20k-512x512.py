_base_ = './swin-s-ssm2d_upernet_4xb4-160k_ade20k-512x512.py'

model = dict(backbone=dict(directions=2))
