_base_ = './mila-t_8xb128_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=768))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
custom_hooks = [dict(type='mmssm.MESAHook', weight=2.0, begin=0.25, momentum=5e-5)]

auto_scale_lr = dict(enable=False, base_batch_size=512)  # 8 GPUs x 64 images
