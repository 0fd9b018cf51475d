_base_ = './mega-t-ssm2d_8xb128_in1k.py'

model = dict(backbone=dict(mixer='ema'))
