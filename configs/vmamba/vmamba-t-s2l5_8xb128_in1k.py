_base_ = './vmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='tiny_s2l5'))
