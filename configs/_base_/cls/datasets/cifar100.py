# CIFAR-100, which the first run downloads to data/cifar100; pictures are RGB.
_base_ = './small.py'

mean = [129.285, 124.058, 112.43]
std = [68.162, 65.382, 70.431]


def step(kind, prob, level):
    """An operation of AutoAugment (arXiv 1805.09501) at a level from 0 to 9."""
    part = level / 9
    settings = {
        'AutoContrast': {},
        'Equalize': {},
        'Invert': {},
        'Posterize': dict(bits=round(8 - 4 * part)),
        'Rotate': dict(angle=30 * part),
        'Solarize': dict(thr=256 - 256 * part),
        'Shear': dict(magnitude=0.3 * part, direction='vertical'),
        'TranslateX': dict(magnitude=150 / 331 * part, direction='horizontal'),
        'TranslateY': dict(magnitude=150 / 331 * part, direction='vertical'),
    }.get(kind, dict(magnitude=0.9 * part))
    return dict(type=kind.removesuffix('X').removesuffix('Y'), prob=prob, **settings)


# its policy for CIFAR-10
policies = [
    [step('Invert', 0.1, 7), step('Contrast', 0.2, 6)],
    [step('Rotate', 0.7, 2), step('TranslateX', 0.3, 9)],
    [step('Sharpness', 0.8, 1), step('Sharpness', 0.9, 3)],
    [step('Shear', 0.5, 8), step('TranslateY', 0.7, 9)],
    [step('AutoContrast', 0.5, 8), step('Equalize', 0.9, 2)],
    [step('Shear', 0.2, 7), step('Posterize', 0.3, 7)],
    [step('ColorTransform', 0.4, 3), step('Brightness', 0.6, 7)],
    [step('Sharpness', 0.3, 9), step('Brightness', 0.7, 9)],
    [step('Equalize', 0.6, 5), step('Equalize', 0.5, 1)],
    [step('Contrast', 0.6, 7), step('Sharpness', 0.6, 5)],
    [step('ColorTransform', 0.7, 7), step('TranslateX', 0.5, 8)],
    [step('Equalize', 0.3, 7), step('AutoContrast', 0.4, 8)],
    [step('TranslateY', 0.4, 3), step('Sharpness', 0.2, 6)],
    [step('Brightness', 0.9, 6), step('ColorTransform', 0.2, 8)],
    [step('Solarize', 0.5, 2), step('Invert', 0.0, 3)],
    [step('Equalize', 0.2, 0), step('AutoContrast', 0.6, 0)],
    [step('Equalize', 0.2, 8), step('Equalize', 0.6, 4)],
    [step('ColorTransform', 0.9, 9), step('Equalize', 0.6, 6)],
    [step('AutoContrast', 0.8, 4), step('Solarize', 0.2, 8)],
    [step('Brightness', 0.1, 3), step('ColorTransform', 0.7, 0)],
    [step('Solarize', 0.4, 5), step('AutoContrast', 0.9, 3)],
    [step('TranslateY', 0.9, 9), step('TranslateY', 0.7, 9)],
    [step('AutoContrast', 0.9, 2), step('Solarize', 0.8, 3)],
    [step('Equalize', 0.8, 8), step('Invert', 0.1, 3)],
    [step('TranslateY', 0.7, 9), step('AutoContrast', 0.9, 1)],
]
train_pipeline = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='AutoAugment', policies=policies),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='const',
        min_area_ratio=0.02,
        max_area_ratio=0.4,
        aspect_range=(0.3, 1 / 0.3),
        fill_color=mean,
    ),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    dataset=dict(
        type='CIFAR100',
        data_root='data/cifar100',
        split='train',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='CIFAR100', data_root='data/cifar100', split='test', pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
