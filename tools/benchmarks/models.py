"""Whole detectors and segmenters of configs/, and the peers' in their place."""

import copy
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

import mmssm
from tools.benchmarks.backbones import (
    PEERS,
    REFERENCE,
    build_backbone,
    with_checkpointing,
)
from tools.benchmarks.case import Case, Prepared, Setting, passes
from tools.benchmarks.parity_gate import network_error

# The revision that is measured brings its own configs.
CONFIGS = (
    next(
        folder
        for folder in (
            Path(mmssm.__file__).resolve().parents[1],
            Path(__file__).parents[2],
        )
        if (folder / 'configs').is_dir()
    )
    / 'configs'
)
PATTERNS = {
    'detectors': ['mask-rcnn_*_1x_coco.py', 'retinanet_*_1x_coco.py'],
    'segmentors': ['*_upernet_*.py', '*_fpn_*_ade20k-*.py'],
}
# Config whose heads the peers get, by group
HEADS = {
    'detectors': 'spatial_mamba/mask-rcnn_spatialmamba-t_fpn_1x_coco.py',
    'segmentors': 'spatial_mamba/spatialmamba-t_upernet_4xb4-160k_ade20k-512x512.py',
}
METHODS = {'detectors': 'mask-rcnn', 'segmentors': 'upernet'}
CHANNELS = {'resnet-50': [256, 512, 1024, 2048]}  # the others have Swin-T's
OBJECTS = 8


def cases(group: str) -> list[Case]:
    """Peers first; ratios are to the one with Swin-T."""
    method = METHODS[group]
    reference = f'{group}/{method}_{REFERENCE}'
    found = [
        Case(f'{group}/{method}_{name}', partial(_peer, group, name), peer=reference)
        for name in PEERS
    ]
    for pattern in PATTERNS[group]:
        for path in sorted(CONFIGS.glob(f'*/{pattern}')):
            if path.parent.name not in ('demo', 'comparison'):
                prepare, gate = partial(_ours, path), partial(_gate, path)
                peer = reference if f'{method}_' in path.stem else None
                found.append(Case(f'{group}/{path.stem}', prepare, gate, peer))
    return found


def _ours(path: Path, setting: Setting) -> Prepared:
    return _prepare(Config.fromfile(path), setting)


def _peer(group: str, name: str, setting: Setting) -> Prepared:
    cfg = Config.fromfile(CONFIGS / HEADS[group])
    channels = CHANNELS.get(name, [96, 192, 384, 768])
    cfg.model.backbone = copy.deepcopy(PEERS[name])
    if group == 'detectors':
        cfg.model.neck.in_channels = channels
    else:
        cfg.model.decode_head.in_channels = channels
        cfg.model.auxiliary_head.in_channels = channels[2]
    return _prepare(cfg, setting)


def _gate(path: Path, device: str) -> float:
    """Of the backbone; heads are those of mmdet and mmseg."""
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        host = cfg.model.backbone.get('host', cfg.model.backbone)
        host.drop_path_rate = 0.0  # both passes must see the same network
        return network_error(build_backbone(cfg.model.backbone), device)


def _prepare(cfg: Config, setting: Setting) -> Prepared:
    model = build_model(cfg, setting.with_cp)
    model.to(setting.device).train(setting.mode == 'training')
    if setting.compiled:
        model.backbone.compile()
    images = torch.randn(setting.batch, 3, *setting.size, device=setting.device)
    make = _detection if cfg.default_scope == 'mmdet' else _segmentation
    samples = [make(setting) for _ in range(setting.batch)]

    def forward() -> list[torch.Tensor]:
        if setting.mode == 'training':
            loss, _ = model.parse_losses(model.loss(images, samples))
            return [loss]
        model.predict(images, samples)
        return []

    return Prepared(passes(forward, model.parameters(), setting), model)


def build_model(cfg: Config, with_cp: bool = False) -> nn.Module:
    """The model of a config, with random weights, for one process."""
    torch.manual_seed(0)
    if with_cp:
        cfg.model.backbone = with_checkpointing(cfg.model.backbone)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return revert_sync_batchnorm(MODELS.build(cfg.model))


def _about(size: tuple[int, int]) -> dict[str, object]:
    pair = (1.0, 1.0)
    return dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=pair)


def _detection(setting: Setting) -> object:
    """Objects of random place and size, a square of ones each."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = setting.size
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(OBJECTS, 2, generator=generator) * 0.6
    sides = 0.1 + torch.rand(OBJECTS, 2, generator=generator) * 0.3
    boxes = torch.cat([corners, corners + sides], 1)
    boxes = boxes * torch.tensor([width, height, width, height])
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int(), strict=True):
        mask[top:bottom, left:right] = 1
    instances = InstanceData(
        bboxes=boxes.to(setting.device),
        labels=torch.arange(OBJECTS, device=setting.device),
        masks=BitmapMasks(masks.numpy(), height, width),
    )
    return DetDataSample(gt_instances=instances, metainfo=_about(setting.size))


def _segmentation(setting: Setting) -> object:
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(150, (1, *setting.size), generator=generator)
    data = PixelData(data=labels.to(setting.device))
    return SegDataSample(gt_sem_seg=data, metainfo=_about(setting.size))
