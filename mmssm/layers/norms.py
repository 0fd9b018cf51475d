"""Norms by name, as configs write them."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from mmssm.layers.arguments import Rule, flag, integer, number, optional, shown
from mmssm.layers.channel_norm import ChannelNorm
from mmssm.layers.conv_norm_act import NormFactory

NORMS: dict[str, Callable[..., nn.Module]] = {
    'BN': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
    'GN': lambda channels, num_groups, **options: nn.GroupNorm(
        num_groups, channels, **options
    ),
    'LN': ChannelNorm,
}
# what their options may be
OPTIONS: dict[str, Rule] = {
    'eps': number(0, 1),
    'momentum': optional(number(0, 1)),
    'num_groups': integer(),
    'affine': flag,
    'track_running_stats': flag,
    'requires_grad': flag,
}
# Makers of norms with other names, (norm_cfg, channels) -> norm; tried in this order.
OTHERS: list[Callable[[dict, int], nn.Module]] = []


def norm_factory(norm_cfg: Mapping[str, object] | None) -> NormFactory:
    """What makes a norm over the channels of a (B, C, H, W) map.

    norm_cfg: dict(type='BN' | 'SyncBN' | 'GN' | 'LN', ...) with options of the norm
    (eps, momentum, num_groups for 'GN') and requires_grad=False, which keeps gain and
    shift as they are; None is dict(type='BN').  With OpenMMLab installed and
    `mmssm.registry` imported, every norm of mmcv's registry.

    Raises ValueError for something else than a dict with a type, for an unknown type,
    and for options that the norm does not have.
    """
    if norm_cfg is None:
        norm_cfg = {'type': 'BN'}
    kind = norm_cfg.get('type') if isinstance(norm_cfg, Mapping) else None
    if not isinstance(kind, str | type):
        raise ValueError(
            f"norm_cfg is {shown(norm_cfg)}; expected a dict such as dict(type='BN')"
        )
    for name, value in norm_cfg.items():
        expected = name in OPTIONS and OPTIONS[name](value, norm_cfg)
        if expected:
            raise ValueError(f'norm_cfg has {name}={value!r}; expected {expected}')
    return partial(_build, dict(norm_cfg))


def _build(norm_cfg: dict, channels: int) -> nn.Module:
    options = {k: v for k, v in norm_cfg.items() if k not in ('type', 'requires_grad')}
    make = NORMS.get(norm_cfg['type'])
    if make is None:
        return _build_other(norm_cfg, channels)
    try:
        norm = make(channels, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'norm_cfg is {norm_cfg!r}, of which no norm over {channels} channels can '
            f'be made: {error}'
        ) from error
    if not norm_cfg.get('requires_grad', True):
        norm.requires_grad_(False)
    return norm


def _build_other(norm_cfg: dict, channels: int) -> nn.Module:
    for make in OTHERS:
        try:
            return make(norm_cfg, channels)
        except Exception as error:  # whatever the registry of another package says
            raise ValueError(
                f'norm_cfg is {norm_cfg!r}, which makes no norm: {error}. Expected a '
                f'type such as {", ".join(map(repr, NORMS))}'
            ) from error
    raise ValueError(
        f'norm_cfg has type {norm_cfg["type"]!r}; expected one of '
        f'{", ".join(map(repr, NORMS))} (others are those of mmcv, which '
        'mmssm.registry brings in)'
    )
