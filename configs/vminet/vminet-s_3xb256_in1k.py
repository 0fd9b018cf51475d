_base_ = './vminet-xs_3xb256_in1k.py'

model = dict(backbone=dict(arch='s'))
