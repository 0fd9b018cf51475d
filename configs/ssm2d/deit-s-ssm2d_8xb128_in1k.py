_base_ = './deit-t-ssm2d_8xb128_in1k.py'

model = dict(backbone=dict(host=dict(arch='deit-small')), head=dict(in_channels=384))
