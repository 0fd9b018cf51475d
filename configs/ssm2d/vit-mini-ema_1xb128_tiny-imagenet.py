_base_ = './vit-mini-ssm2d_1xb128_tiny-imagenet.py'

model = dict(backbone=dict(mixer='ema', place='attention'))
