_base_ = './swin-mini-ssm2d_1xb128_tiny-imagenet.py'

model = dict(backbone=dict(mixer='ema'))
