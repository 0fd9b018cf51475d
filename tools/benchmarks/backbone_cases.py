"""The backbones of the package and their peers, ConvNeXt-T among them."""

from functools import partial
from importlib.util import find_spec

import torch
from mmengine.registry import MODELS
from torch import nn

from tools.benchmarks.cases import Case, Prepared, Setting, prepare_network
from tools.benchmarks.parity_gate import network_error

# A revision that --base names may lack the counter.
COUNTED = find_spec('mmssm.analysis.flops') is not None
REFERENCE = 'swin-t'
SWIN = dict(type='mmdet.SwinTransformer', drop_path_rate=0.0)
PEERS = {
    REFERENCE: SWIN,
    'convnext-t': dict(type='mmssm.ConvNeXt', arch='tiny'),
    'resnet-50': dict(type='mmdet.ResNet', depth=50),
}
OURS = {
    **{
        f'spatialmamba-{arch[0]}': dict(type='mmssm.SpatialMamba', arch=arch)
        for arch in ('tiny', 'small', 'base')
    },
    **{
        f'vminet-{arch}': dict(type='mmssm.VMINet', arch=arch)
        for arch in ('ti', 'xs', 's', 'b')
    },
    'swin-t-ssm2d': dict(type='mmssm.SSM2DHost', host=SWIN),
}


def backbone_cases() -> list[Case]:
    """Peers first; ratios are to Swin-T."""
    return [
        Case(
            f'backbones/{name}',
            partial(_prepare, config),
            partial(_gate, config) if name in OURS else None,
            f'backbones/{REFERENCE}',
            partial(_macs, config) if COUNTED else None,
        )
        for name, config in {**PEERS, **OURS}.items()
    ]


def build_backbone(config: dict, with_cp: bool = False) -> nn.Module:
    """From a config of mmengine, with random weights."""
    torch.manual_seed(0)
    return MODELS.build(with_checkpointing(config) if with_cp else config)


def with_checkpointing(config: dict) -> dict:
    """The same backbone, which recomputes its blocks in the backward pass."""
    if 'host' in config:
        return dict(config, host=dict(config['host'], with_cp=True))
    return dict(config, with_cp=True)


def _prepare(config: dict, setting: Setting) -> Prepared:
    return prepare_network(build_backbone(config, setting.with_cp), setting)


def _gate(config: dict, device: str) -> float:
    return network_error(build_backbone(config), device)


def _macs(config: dict, size: tuple[int, int]) -> int:
    from mmssm.analysis.flops import count_macs

    return count_macs(build_backbone(config), (1, 3, *size)).total
