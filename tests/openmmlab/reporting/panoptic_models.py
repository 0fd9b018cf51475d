"""Two pictures in COCO's panoptic format, and small models of both kinds for them."""

import json
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from mmssm.weights import save_file

HEIGHT, WIDTH = 40, 64
THING, STUFF = 'box', ('ground', 'sky')

START = """
default_scope = 'mmdet'
heads = dict(num_things_classes=1, num_stuff_classes=2)
preprocessor = dict(
    type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_mask=True,
    pad_seg=True, pad_size_divisor=32)
backbone = dict(
    type='mmssm.VMINet', arch=dict(channels=4, depths=(1, 1, 1, 1), expand=2))
"""
MODEL_TEXTS = {
    'PanopticFPN': """
nms = dict(type='nms', iou_threshold=0.5)
roi = dict(type='SingleRoIExtractor', out_channels=8, featmap_strides=[4, 8, 16, 32])
model = dict(
    type='PanopticFPN',
    data_preprocessor=preprocessor, backbone=backbone,
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=8, feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0],
            strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0), **roi),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=16,
            roi_feat_size=7, num_classes=1,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
        mask_roi_extractor=dict(
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0), **roi),
        mask_head=dict(
            type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8,
            num_classes=1)),
    semantic_head=dict(
        type='PanopticFPNHead', in_channels=8, inner_channels=8, start_level=0,
        end_level=4, norm_cfg=dict(type='GN', num_groups=2),
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255), **heads),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', **heads),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3,
                min_pos_iou=0.3),
            sampler=dict(type='RandomSampler', num=16, pos_fraction=0.5),
            allowed_border=-1, pos_weight=-1),
        rpn_proposal=dict(nms_pre=50, max_per_img=5, nms=nms, min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5,
                min_pos_iou=0.5),
            sampler=dict(
                type='RandomSampler', num=16, pos_fraction=0.25,
                add_gt_as_proposals=True),
            mask_size=28, pos_weight=-1)),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=5, nms=nms, min_bbox_size=0),
        rcnn=dict(
            score_thr=0.05, max_per_img=5, mask_thr_binary=0.5,
            nms=dict(nms, class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=1)))
""",
    'Mask2Former': """
attention = dict(embed_dims=8, num_heads=2, dropout=0.0, batch_first=True)
perceptron = dict(
    embed_dims=8, feedforward_channels=16, num_fcs=2, ffn_drop=0.0,
    act_cfg=dict(type='ReLU', inplace=True))
position = dict(num_feats=4, normalize=True)
pixels = dict(
    type='MSDeformAttnPixelDecoder', num_outs=3, norm_cfg=dict(type='GN', num_groups=2),
    act_cfg=dict(type='ReLU'), positional_encoding=position,
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(attention, num_levels=3, num_points=2),
            ffn_cfg=perceptron)))
cross = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0)
dice = dict(
    type='DiceLoss', use_sigmoid=True, activate=True, naive_dice=True, eps=1.0,
    loss_weight=5.0)
model = dict(
    type='Mask2Former', data_preprocessor=preprocessor, backbone=backbone,
    panoptic_head=dict(
        type='Mask2FormerHead', in_channels=[4, 8, 16, 32], strides=[4, 8, 16, 32],
        feat_channels=8, out_channels=8, num_queries=6, num_transformer_feat_level=3,
        pixel_decoder=pixels, enforce_decoder_input_project=False,
        positional_encoding=position,
        transformer_decoder=dict(
            return_intermediate=True, num_layers=1, init_cfg=None,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_cfg=attention,
                ffn_cfg=perceptron)),
        loss_cls=dict(
            type='CrossEntropyLoss', loss_weight=2.0, class_weight=[1.0] * 3 + [0.1]),
        loss_mask=cross, loss_dice=dice, **heads),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead', loss_panoptic=None, init_cfg=None, **heads),
    train_cfg=dict(
        num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75,
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=2.0),
                dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0)]),
        sampler=dict(type='MaskPseudoSampler')),
    test_cfg=dict(
        panoptic_on=True, semantic_on=False, instance_on=True, max_per_image=5,
        iou_thr=0.0, object_mask_thr=0.0, filter_low_score=True))
""",
}
DATA = """
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations'),
]
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
scale = dict(type='Resize', scale=(64, 64), keep_ratio=True)
dataset = dict(
    type='CocoPanopticDataset', data_root='{root}', ann_file='panoptic.json',
    data_prefix=dict(img='images', seg='maps'), test_mode=True,
    metainfo=dict(
        classes=('box', 'ground', 'sky'), thing_classes=('box',),
        stuff_classes=('ground', 'sky')),
    pipeline=[load[0], scale, load[1], pack])
test_dataloader = dict(
    batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler'))
val_dataloader = train_dataloader = test_dataloader
"""


def write_model(folder: Path, kind: str) -> tuple[str, str]:
    """Config and weights, as they are before training, of a model of this kind."""
    write_data(folder / 'data')
    config, weights = folder / f'{kind}.py', folder / f'{kind}.pth'
    data = DATA.replace('{root}', f'{folder}/data')
    config.write_text(START + MODEL_TEXTS[kind] + data)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(config).model)
    save_file({'meta': {}, 'state_dict': model.state_dict()}, weights)
    return str(config), str(weights)


def write_data(root):
    """Two pictures: sky over ground, one box, and a crowd in the second one."""
    for folder in ('images', 'maps'):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in (1, 2):
        image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / f'images/{number}.jpg')
        ids = np.full((HEIGHT, WIDTH), 70000)
        ids[:20] = 3
        ids[25:35, 10:30] = 258
        ids[:2] = 0  # nothing
        segments = [entry(70000, 2), entry(3, 3), entry(258, 1)]
        if number == 2:
            ids[25:35, 40:60] = 9
            segments.append(entry(9, 1, iscrowd=1))
        channels = [ids % 256, ids // 256 % 256, ids // 65536]
        pixels = np.stack(channels, 2).astype(np.uint8)
        Image.fromarray(pixels).save(root / f'maps/{number}.png')
        name = f'{number}.jpg'
        images.append(dict(id=number, file_name=name, width=WIDTH, height=HEIGHT))
        annotations.append(
            dict(image_id=number, file_name=f'{number}.png', segments_info=segments)
        )
    names = ((1, THING, 1), (2, STUFF[0], 0), (3, STUFF[1], 0))
    categories = [dict(id=i, name=n, isthing=thing) for i, n, thing in names]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'panoptic.json').write_text(json.dumps(content))


def entry(number, category, **more):
    box = dict(bbox=[0, 0, 20, 10], area=200, iscrowd=0)
    return {'id': number, 'category_id': category, **box, **more}
