_base_ = './vmamba-t_upernet_4xb4-160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='tiny_s2l5'))
