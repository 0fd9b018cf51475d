"""The backbones of the package and their peers, as many as what is installed builds."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import nn

from mmssm.backbones import MILA, ConvNeXt, SpatialMamba, VMamba, VMINet
from tools.benchmarks.case import Case, Prepared, Setting, prepare_network
from tools.benchmarks.parity_gate import network_error

Size = tuple[int, int]
SWIN = dict(type='mmdet.SwinTransformer', drop_path_rate=0.0)
REFERENCE = 'swin-t'
# Peers as configs, for the models of configs/
PEERS = {
    REFERENCE: SWIN,
    'convnext-t': dict(type='mmssm.ConvNeXt', arch='tiny'),
    'resnet-50': dict(type='mmdet.ResNet', depth=50),
}


class Backbone(NamedTuple):
    """build: for images of a size, recomputing blocks or not.  ours: has our ops."""

    build: Callable[[Size, bool], nn.Module]
    ours: bool


def backbones() -> dict[str, Backbone]:
    """Peers first: of mmdet, of timm, and ConvNeXt-T, which has none of our ops."""
    found: dict[str, Backbone] = {}
    mmdet = find_spec('mmdet') is not None
    if mmdet:
        for name in (REFERENCE, 'resnet-50'):
            found[name] = _from_config(PEERS[name], ours=False)
    if find_spec('timm'):
        found['timm-swin-t'] = _from_timm('swin_tiny_patch4_window7_224')
        found['timm-convnext-t'] = _from_timm('convnext_tiny')
    found['convnext-t'] = _of_class(ConvNeXt, 'tiny', ours=False)
    for arch in ('tiny', 'small', 'base'):
        found[f'spatialmamba-{arch[0]}'] = _of_class(SpatialMamba, arch)
        found[f'mila-{arch[0]}'] = _of_class(MILA, arch)
        found[f'vmamba-{arch[0]}'] = _of_class(VMamba, arch)
    for arch in ('ti', 'xs', 's', 'b'):
        found[f'vminet-{arch}'] = _of_class(VMINet, arch)
    if mmdet:
        layered = dict(type='mmssm.SSM2DHost', host=SWIN)
        found['swin-t-ssm2d'] = _from_config(layered)
        found['swin-t-ssm2d-1e-6'] = _from_config(dict(layered, tolerance=1e-6))
    return found


def _of_class(
    family: Callable[..., nn.Module], arch: str, ours: bool = True
) -> Backbone:
    return Backbone(lambda size, with_cp: family(arch, with_cp=with_cp), ours)


def _from_config(config: dict, ours: bool = True) -> Backbone:
    return Backbone(lambda size, with_cp: build_backbone(config, with_cp), ours)


def _from_timm(name: str) -> Backbone:
    """Without head and pooling; Swin is built for one size of images."""

    def build(size: Size, with_cp: bool) -> nn.Module:
        import timm

        options = dict(img_size=size) if name.startswith('swin') else {}
        model = timm.create_model(name, num_classes=0, global_pool='', **options)
        model.set_grad_checkpointing(with_cp)
        return model

    return Backbone(build, ours=False)


def cases(group: str) -> list[Case]:
    """Ratios are to Swin-T where there is one, else to ConvNeXt-T."""
    known = backbones()
    peers = (REFERENCE, 'timm-swin-t', 'convnext-t')
    reference = next(name for name in peers if name in known)
    return [
        Case(
            f'{group}/{name}',
            partial(_prepare, backbone),
            partial(_gate, backbone) if backbone.ours else None,
            f'{group}/{reference}',
            partial(_macs, backbone),
        )
        for name, backbone in known.items()
    ]


def build_backbone(config: dict, with_cp: bool = False) -> nn.Module:
    """From a config of mmengine, with random weights."""
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    return MODELS.build(with_checkpointing(config) if with_cp else config)


def with_checkpointing(config: dict) -> dict:
    """The same backbone, which recomputes its blocks in the backward pass."""
    if 'host' in config:
        return dict(config, host=dict(config['host'], with_cp=True))
    return dict(config, with_cp=True)


def _build(backbone: Backbone, size: Size, with_cp: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return backbone.build(size, with_cp)


def _prepare(backbone: Backbone, setting: Setting) -> Prepared:
    model = _build(backbone, setting.size, setting.with_cp)
    return prepare_network(model, setting)


def _gate(backbone: Backbone, device: str) -> float:
    return network_error(_build(backbone, (224, 224)), device)


def _macs(backbone: Backbone, size: Size) -> int | None:
    try:
        from mmssm.analysis.flops import count_macs
    except ImportError:  # a revision that --base names may lack the counter
        return None
    return count_macs(_build(backbone, size), (1, 3, *size)).total
