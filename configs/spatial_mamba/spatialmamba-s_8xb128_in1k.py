_base_ = './spatialmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
custom_hooks = [dict(type='mmssm.MESAHook', weight=1.5, begin=0.25, momentum=1e-4)]
