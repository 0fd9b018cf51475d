_base_ = './mega-mini-ssm2d_1xb128_cifar100.py'

model = dict(backbone=dict(mixer='none'))
