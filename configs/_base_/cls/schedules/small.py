# The trainer of the 2-D SSM's tables: AdamW for 100 of its epochs, of which each goes
# three times over the data, hence 300 here, with 30 of warm-up; only biases, and B and
# C of the layer, are without weight decay.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=30,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-3,
        by_epoch=True,
        begin=30,
        end=300,
        convert_to_iter_based=True,
    ),
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            '.bias': dict(decay_mult=0.0),
            'ssm2d.B': dict(decay_mult=0.0),
            'ssm2d.C': dict(decay_mult=0.0),
            'mixer.B': dict(decay_mult=0.0),
            'mixer.C': dict(decay_mult=0.0),
        }
    ),
)

auto_scale_lr = dict(enable=False, base_batch_size=128)  # 1 GPUs x 128 images
