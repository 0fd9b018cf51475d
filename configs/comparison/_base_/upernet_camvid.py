# UPerNet of the demo on street scenes of 180x240, trained on crops of 128x128.
# CamVid in the 11-class version of the SegNet tutorial, reduced to half its sides; see
# README.md for where it comes from and how it is prepared.
_base_ = '../../demo/_base_/upernet_shapes.py'

classes = (
    'sky',
    'building',
    'pole',
    'road',
    'pavement',
    'tree',
    'sign',
    'fence',
    'car',
    'pedestrian',
    'bicyclist',
)
palette = [
    [128, 128, 128],
    [128, 0, 0],
    [192, 192, 128],
    [128, 64, 128],
    [60, 40, 222],
    [128, 128, 0],
    [192, 128, 128],
    [64, 64, 128],
    [64, 0, 128],
    [64, 64, 0],
    [0, 128, 192],
]
crop_size = (128, 128)
heads = dict(num_classes=len(classes))

model = dict(decode_head=heads, auxiliary_head=heads)

optim_wrapper = dict(optimizer=dict(lr=2e-3))

dataset = dict(
    data_root='data/camvid/',
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=False,
)
train_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(
                type='RandomResize',
                scale=(240, 180),
                ratio_range=(0.75, 1.5),
                keep_ratio=True,
            ),
            dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path='images/test', seg_map_path='labels/test'),
    ),
)
