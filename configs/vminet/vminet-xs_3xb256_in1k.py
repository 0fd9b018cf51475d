# The command of the official README; what it leaves open are timm's defaults (0.6.13).
_base_ = '../_base_/cls/imagenet_300e.py'

model = dict(
    backbone=dict(type='mmssm.VMINet', arch='xs', out_indices=(3,)),
    neck=dict(
        _delete_=True,
        type='mmssm.NormedPooling',
        in_channels=384,
        norm_cfg=dict(type='BN'),
    ),
    head=dict(in_channels=384),
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=0.2)]
    ),
)

train_pipeline = _base_.train_pipeline
train_pipeline[3].magnitude_level = 1
train_dataloader = dict(batch_size=256, dataset=dict(pipeline=train_pipeline))

# 5 epochs of warm-up, and 10 at the lowest rate after the 300
train_cfg = dict(max_epochs=310)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, by_epoch=True, begin=0, end=300),
]
optim_wrapper = dict(optimizer=dict(weight_decay=0.025), clip_grad=None)

auto_scale_lr = dict(enable=False, base_batch_size=768)  # 3 GPUs x 256 images
