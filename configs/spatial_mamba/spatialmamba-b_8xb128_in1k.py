_base_ = './spatialmamba-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=768))
custom_hooks = [dict(type='mmssm.MESAHook', weight=2.0, begin=0.25, momentum=1e-4)]
