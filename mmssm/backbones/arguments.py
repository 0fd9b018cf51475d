"""What each argument of each backbone may be: the tables, and nothing else checks.

A backbone states its table here and puts `checked(TABLE)` before its constructor.  A
row is an argument and the rule of `layers.arguments` that it follows; what it means
stands in the backbone's docstring.
"""

import difflib
from collections.abc import Mapping

import torch

from mmssm.backbones.arch import per_stage, read_arch
from mmssm.layers.arguments import (
    WIDEST,
    Given,
    Rule,
    choice,
    flag,
    integer,
    is_integer,
    is_sequence,
    number,
    optional,
    shown,
    size,
)
from mmssm.layers.norms import norm_factory
from mmssm.layers.pyramid import STRIDES
from mmssm.layers.separable_attention import RESAMPLE
from mmssm.layers.ssm2d import OPTIONS as SSM2D
from mmssm.weights import read_options

# pixels; the positions that are learned on them are kept for every block
LARGEST_IMAGE = 4096


def arch(**entries: Rule) -> Rule:
    """A name of the class's zoo, or a dict with these entries."""

    def rule(value: object, given: Given) -> str | None:
        zoo = given['self'].zoo
        example = dict(next(iter(zoo.values())))
        if isinstance(value, str):
            names = ', '.join(map(repr, zoo))
            return None if value in zoo else f'one of {names}, or a dict like {example}'
        keys = set(value) if isinstance(value, Mapping) else set()
        if keys != set(entries):
            odd = [str(key) for key in keys - set(entries)]
            close = difflib.get_close_matches(odd[0], entries, 1) if odd else []
            hint = f' (did you mean {close[0]!r}?)' if close else ''
            return f'a name or a dict with the keys {sorted(entries)}{hint}'
        for name, entry in entries.items():
            expected = entry(value[name], value)
            if expected is not None:
                raise ValueError(
                    f'arch has {name}={shown(value[name])}; expected {expected}'
                )
        return None

    return rule


def depths(value: object, given: Given) -> str | None:
    """Blocks of each stage."""
    fits = is_sequence(value) and 0 < len(value) <= 8
    if fits and all(is_integer(n, 1, 1000) for n in value):
        return None
    return 'a sequence of positive integers up to 1000, one for each of up to 8 stages'


def channels(low: int = 1) -> Rule:
    """Of each stage, or of the first one, doubled from stage to stage."""

    def rule(value: object, given: Given) -> str | None:
        count = len(given['depths'])
        each = value if is_sequence(value) else None
        if is_integer(value):
            each = [value * 2**i for i in range(count)]
        if each is None or not all(is_integer(n, low, WIDEST) for n in each):
            return (
                f'a sequence of positive integers from {low} to {WIDEST}, one per '
                'stage, or one integer, which is doubled from stage to stage'
            )
        if len(each) != count:
            return (
                f'one of each per stage, or one integer for channels: there are '
                f'{count} depths {tuple(given["depths"])} but {len(each)} channels'
            )
        return None

    return rule


def heads(value: object, given: Given) -> str | None:
    """Of each stage, or of the first one; they divide channels that are turned."""
    expected = channels()(value, given)
    if expected is not None:
        return expected.replace('channels', 'heads')
    widths, each = (per_stage(v, given['depths']) for v in (given['channels'], value))
    if all(w % 4 == 0 and w % n == 0 for w, n in zip(widths, each, strict=True)):
        return None
    return f'divisors of the channels {widths}, which are multiples of 4'


def same_channels(value: object, given: Given) -> str | None:
    """One width for all four groups of blocks."""
    expected = channels()(value, given)
    each = set(value) if is_sequence(value) else ()
    fits = len(each) == 1 and len(given['depths']) == len(STRIDES)
    return expected or (None if fits else 'the same number four times')


def stage_count(given: Given) -> int:
    """Stages of the backbone that the arguments describe."""
    if 'stages' in given:
        return len(given['stages'])
    return len(read_arch(given['arch'], given['self'].zoo)['depths'])


def out_indices(value: object, given: Given) -> str | None:
    """Stages in increasing order; negative ones count from the end."""
    count = stage_count(given)
    fits = is_sequence(value) and len(value) > 0
    if not fits or not all(is_integer(i, -count, count - 1) for i in value):
        return (
            f'a sequence of one or more of 0 to {count - 1} (or -{count} to -1 from '
            f'the end), such as (1, 2): the backbone has {count} stages'
        )
    resolved = [i % count for i in value]
    rising = resolved == sorted(set(resolved))
    return None if rising else 'increasing stages without repeats'


def frozen_stages(value: object, given: Given) -> str | None:
    """-1, or a number of stages."""
    count = stage_count(given)
    if is_integer(value, -1, count):
        return None
    return f'an integer, -1 (train all) to {count} (freeze all {count} stages)'


def norm_cfg(value: object, given: Given) -> str | None:
    """What makes a norm for every stage."""
    make = norm_factory(value)
    with torch.device('meta'):
        for width in read_arch(given['arch'], given['self'].zoo)['channels']:
            make(width)
    return None


def init_cfg(value: object, given: Given) -> str | None:
    """mmengine's; the options of pretrained weights are ours."""
    read_options(value)
    entries = value if is_sequence(value) else [value]
    if value is None or all(
        isinstance(entry, Mapping) and isinstance(entry.get('type'), str | type)
        for entry in entries
    ):
        return None
    return "None, or a dict with a type: dict(type='Pretrained', checkpoint='FILE')"


def network(value: object, given: Given) -> str | None:
    """A network, or its config."""
    if isinstance(value, torch.nn.Module):
        return None
    if isinstance(value, Mapping) and isinstance(value.get('type'), str | type):
        return None
    return "a backbone, or its config, such as dict(type='mmdet.SwinTransformer')"


CONTRACT = {
    'in_channels': integer(),
    'out_indices': out_indices,
    'frozen_stages': frozen_stages,
    'norm_eval': flag,
    'init_cfg': init_cfg,
}
COMMON = {**CONTRACT, 'drop_path_rate': number(0, 1, below=True), 'with_cp': flag}
SPATIAL_MAMBA = {
    # the stem starts with half of the first stage's channels
    'arch': arch(depths=depths, channels=channels(2)),
    **COMMON,
    'norm_cfg': norm_cfg,
}
VMAMBA = {
    'arch': arch(depths=depths, channels=channels(2), expand=integer(1, 64)),
    **COMMON,
    'num_states': integer(1, 1024),
}
MILA = {
    'arch': arch(depths=depths, channels=channels(4), heads=heads),
    **COMMON,
    'norm_cfg': norm_cfg,
}
VMINET = {
    'arch': arch(depths=depths, channels=channels(), expand=integer(1, 64)),
    **COMMON,
    'norm_cfg': norm_cfg,
    'train_size': size(LARGEST_IMAGE),
    'resample': choice(*RESAMPLE),
}
CONVNEXT = {
    'arch': arch(depths=depths, channels=channels()),
    **COMMON,
    'layer_scale': number(0, 1000),
}
MEGA = {
    'arch': arch(
        depths=depths,
        channels=same_channels,
        patch=choice(*STRIDES),
        shared=integer(),
        expanded=integer(),
        hidden=integer(),
    ),
    **COMMON,
    'mixer': choice('ssm2d', 'ema', 'none'),
    'pyramid': flag,
    'train_size': size(LARGEST_IMAGE),
    **{k: v for k, v in SSM2D.items() if k not in ('kernel_size', 'keep_kernels')},
}
SSM2D_HOST = {
    'host': network,
    'start': choice('identity', 'published'),
    'place': optional(choice('attention', 'query_key', 'ffn', 'conv')),
    'pyramid': optional(flag),
    'mixer': choice('ssm2d', 'ema'),
    **SSM2D,
}
