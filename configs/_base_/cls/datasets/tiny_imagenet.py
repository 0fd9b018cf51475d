# Tiny-ImageNet, data/tiny_imagenet/{train,val}/SYNSET/*.JPEG, 64 x 64.  The authors'
# archive has all of val in one folder: sort it by val_annotations.txt.
_base_ = './small.py'

mean = [122.451, 114.266, 101.363]
std = [70.635, 68.621, 71.936]

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=64, padding=4),
    dict(type='AutoAugment', policies='imagenet'),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='const',
        min_area_ratio=0.02,
        max_area_ratio=0.4,
        aspect_range=(0.3, 1 / 0.3),
        fill_color=mean[::-1],
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=64, edge='short', backend='pillow'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    dataset=dict(
        type='CustomDataset',
        data_root='data/tiny_imagenet',
        data_prefix='train',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='CustomDataset',
        data_root='data/tiny_imagenet',
        data_prefix='val',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
