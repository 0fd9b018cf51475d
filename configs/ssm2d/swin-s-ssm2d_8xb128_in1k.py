_base_ = './swin-t-ssm2d_8xb128_in1k.py'

model = dict(backbone=dict(host=dict(arch='small', drop_path_rate=0.3)))
