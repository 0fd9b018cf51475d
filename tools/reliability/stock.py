"""The frameworks' own configs, made small and fitted to another backbone."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config

CONFIGS = {
    'mmdet': {
        'Mask R-CNN': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'Cascade Mask R-CNN': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        'Faster R-CNN': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'Sparse R-CNN': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
        'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
        'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'ATSS': 'atss/atss_r50_fpn_1x_coco.py',
        'TOOD': 'tood/tood_r50_fpn_1x_coco.py',
        'RTMDet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        'YOLOX': 'yolox/yolox_tiny_8xb8-300e_coco.py',
        'DETR': 'detr/detr_r50_8xb2-150e_coco.py',
        'Deformable DETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        'DINO': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
        'DDQ': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
        'Mask2Former, instances': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        'Mask2Former, panoptic': (
            'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'
        ),
        'Panoptic FPN': 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
        'SOLOv2': 'solov2/solov2_r50_fpn_1x_coco.py',
        'CondInst': 'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    },
    'mmseg': {
        'UPerNet': 'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
        'SegFormer': 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        'FCN': 'fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py',
        'PSPNet': 'pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py',
        'DeepLabV3+': 'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512.py',
        'OCRNet': 'ocrnet/ocrnet_hr18_4xb4-160k_ade20k-512x512.py',
        'Mask2Former': 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
        'K-Net': 'knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py',
        'PointRend': 'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
        'SegNeXt': 'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    },
    'mmrotate': {
        'Oriented R-CNN': 'oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
        'Rotated RetinaNet': (
            'rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py'
        ),
    },
}
LEVELS = 4
# What costs time and says nothing about a backbone, and the most of it
MOST = {
    'num_layers': 3,  # a mask head of three layers counts its parameters
    'num_queries': 20,
    'num_proposals': 20,
    'num_points': 112,
    'num': 64,
    'nms_pre': 100,
    'max_per_img': 20,  # no more than there are queries
    'max_per_image': 20,
    'feedforward_channels': 64,
    'fc_out_channels': 64,
    'stacked_convs': 2,
    'num_convs': 1,
    'channels': 64,
    'conv_out_channels': 64,
    'score_thr': 0.0,  # so that an untrained head predicts something
}
REPLACED = {'batch_augments': None, 'pretrained': None}
# updates kernels of the generating head, whose `channels` became fewer
UPDATES = {'type': 'KernelUpdateHead', 'in_channels': 64, 'out_channels': 64}


def model_of(package: str, name: str) -> dict[str, Any]:
    """The model of an installed package's config, with its own backbone."""
    folder = Path(import_module(package).__file__).parent
    places = [folder / '.mim/configs', folder.parent / 'configs']  # a wheel, a clone
    path = next((p for p in places if p.is_dir()), places[0]) / CONFIGS[package][name]
    return _smaller(Config.fromfile(path).model.to_dict())


def fitted(
    model: dict[str, Any],
    backbone: Callable[[Sequence[int]], dict[str, Any]],
    channels: Sequence[int],
) -> dict[str, Any]:
    """The model on the backbone's levels that it reads.

    backbone: levels -> its config.  channels: of its four levels, strides 4 to 32.
    """
    neck, panoptic = model.get('neck'), model.get('panoptic_head')
    heads = list(_readers([v for k, v in model.items() if k.endswith('_head')]))
    if neck:
        levels = range(LEVELS - len(neck['in_channels']), LEVELS)
        levels = levels[neck.get('start_level', 0) :]
        if 'start_level' in neck:
            neck['start_level'] = 0
        neck['in_channels'] = [channels[i] for i in levels]
    elif panoptic or not heads:
        levels = range(LEVELS)
        (panoptic or model['decode_head'])['in_channels'] = list(channels)
    else:
        levels = sorted({i for head in heads for i in _levels(head)})
        for head in heads:
            _refit(head, levels, channels)
    return {**model, 'backbone': backbone(tuple(levels))}


def _refit(head: dict, levels: Sequence[int], channels: Sequence[int]) -> None:
    places = _listed(head['in_index'])
    seen, indices = [channels[i] for i in places], [levels.index(i) for i in places]
    single = isinstance(head['in_index'], int)
    head['in_channels'] = seen[0] if single else seen
    head['in_index'] = indices[0] if single else indices
    if 'c1_in_channels' in head:
        head['c1_in_channels'] = channels[0]


def _levels(head: dict) -> list[int]:
    # DeepLabV3+ reads the first one too, whatever in_index says
    return _listed(head['in_index']) + [0] * ('c1_in_channels' in head)


def _readers(node: Any) -> Iterator[dict]:
    """Heads that name the levels that they read; a wrapped one stands inside."""
    if isinstance(node, dict) and 'in_index' in node:
        yield node
    elif isinstance(node, dict | list):
        for part in node.values() if isinstance(node, dict) else node:
            yield from _readers(part)


def _smaller(node: Any) -> Any:
    if isinstance(node, list | tuple):
        return type(node)(_smaller(part) for part in node)
    if not isinstance(node, dict):
        return node
    found = {}
    for key, value in node.items():
        if key in MOST and isinstance(value, int | float):
            found[key] = min(value, MOST[key])
        elif key == 'type' and value == 'SyncBN':
            found[key] = 'BN'
        else:
            found[key] = _smaller(value)
    if found.get('type') == UPDATES['type']:
        found.update(UPDATES)
    return {**found, **{k: v for k, v in REPLACED.items() if k in found}}


def _listed(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
