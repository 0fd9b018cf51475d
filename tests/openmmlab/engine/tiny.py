"""Tiny data on disk and configs that a real detector and segmenter train on."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COUNT, SIZE = 4, 64

COMMON = """
model_wrapper_cfg = None
randomness = dict(seed=1)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3),
    clip_grad=dict(max_norm=1.0))
backbone = dict(type='mmssm.SpatialMamba', arch=dict(channels=4, depths=(1, 1, 1, 1)))
visualizer = dict(
    type='{kind}LocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    visualization=dict(type='{kind}VisualizationHook'))
loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'))
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""

SEGMENTATION = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3,
        size=(64, 64), seg_pad_val=255),
    backbone=backbone,
    decode_head=dict(
        type='FCNHead', in_channels=[4, 8, 16, 32], channels=8, in_index=[0, 1, 2, 3],
        input_transform='resize_concat', num_convs=1, num_classes=2,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
flip = dict(type='RandomFlip', prob=0.5)
pack = dict(type='PackSegInputs')
dataset = dict(
    type='BaseSegDataset', data_root='{root}',
    metainfo=dict(classes=('ground', 'box'), palette=[[0, 0, 0], [255, 0, 0]]),
    data_prefix=dict(img_path='images', seg_map_path='maps'),
    img_suffix='.png', seg_map_suffix='.png')
train_dataloader = dict(dataset=dict(pipeline=[*load, flip, pack], **dataset), **loader)
test_dataloader = dict(
    loader, dataset=dict(pipeline=[*load, pack], **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False))
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
log_processor = dict(by_epoch=False)
default_hooks['checkpoint'] = dict(type='CheckpointHook', by_epoch=False, interval=2)
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')], [pack]])]
"""

DETECTION = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3,
        pad_size_divisor=32),
    backbone=backbone,
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=4),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1,
            ratios=[1.0], strides=[4, 8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
scale = dict(type='Resize', scale=(64, 64), keep_ratio=True)
flip = dict(type='RandomFlip', prob=0.5)
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
dataset = dict(
    type='CocoDataset', data_root='{root}', ann_file='boxes.json',
    data_prefix=dict(img='images'), metainfo=dict(classes=('ground', 'box')))
train_dataloader = dict(
    dataset=dict(pipeline=[*load, scale, flip, pack], **dataset),
    batch_sampler=dict(type='AspectRatioBatchSampler'), **loader)
test_dataloader = dict(
    loader, dataset=dict(pipeline=[load[0], scale, pack], test_mode=True, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False))
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(
    type='CocoMetric', ann_file='{root}/boxes.json', metric='bbox')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
default_hooks['checkpoint'] = dict(type='CheckpointHook', interval=1)
"""


def write_data(root: Path) -> None:
    """Images with one bright box each: COCO boxes, and label maps beside them."""
    rng = np.random.default_rng(0)
    (root / 'images').mkdir(parents=True)
    (root / 'maps').mkdir()
    images, boxes = [], []
    for number in range(1, COUNT + 1):
        image = rng.integers(0, 100, (SIZE, SIZE, 3), dtype=np.uint8)
        labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
        x, y = (int(value) for value in rng.integers(4, 28, 2))
        image[y : y + 24, x : x + 24] += 150
        labels[y : y + 24, x : x + 24] = 1
        Image.fromarray(image).save(root / f'images/{number}.png')
        Image.fromarray(labels).save(root / f'maps/{number}.png')
        name = f'{number}.png'
        images.append(dict(id=number, file_name=name, width=SIZE, height=SIZE))
        box = dict(id=number, image_id=number, category_id=2, bbox=[x, y, 24, 24])
        boxes.append(dict(box, area=576, iscrowd=0))
    categories = [dict(id=1, name='ground'), dict(id=2, name='box')]
    content = dict(images=images, annotations=boxes, categories=categories)
    (root / 'boxes.json').write_text(json.dumps(content))


def write_config(folder: Path, task: str) -> Path:
    """The config of 'detection' or 'segmentation' on the data in folder/data."""
    kind = dict(detection='Det', segmentation='Seg')[task]
    body = dict(detection=DETECTION, segmentation=SEGMENTATION)[task]
    path = folder / f'{task}.py'
    text = COMMON.replace('{kind}', kind) + body.replace('{root}', f'{folder}/data')
    path.write_text(text)
    return path
