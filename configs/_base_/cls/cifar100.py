# A classifier on CIFAR-100 as the tables of the 2-D SSM have it.
_base_ = [
    './models/classifier.py',
    './datasets/cifar100.py',
    './schedules/small.py',
    './runtime.py',
]

model = dict(
    data_preprocessor=dict(
        num_classes=100, mean=_base_.mean, std=_base_.std, to_rgb=False
    ),
    head=dict(num_classes=100),
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)],
        probs=[0.25, 0.25],
    ),
)
default_hooks = dict(checkpoint=dict(interval=3))
