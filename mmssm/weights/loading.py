"""Weights into a module: what fits, what does not, and nothing in silence."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmssm.weights.files import load_file
from mmssm.weights.official import detect_family, from_official, some, unwrap
from mmssm.weights.official.family import StateDict


class KeyReport(NamedTuple):
    """What did not fit when weights were loaded; each a sorted list of names."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        parts = [
            f'{title} ({len(names)}): {some(names)}'
            for title, names in zip(self._fields, self, strict=True)
            if names
        ]
        return '; '.join(parts) or 'every key matches'


def compare(weights: Mapping[str, Tensor], module: nn.Module) -> KeyReport:
    """Keys and shapes of the weights against those of the module."""
    expected = module.state_dict()
    both = expected.keys() & weights.keys()
    return KeyReport(
        sorted(expected.keys() - weights.keys()),
        sorted(weights.keys() - expected.keys()),
        sorted(
            f'{name} {tuple(weights[name].shape)} for {tuple(expected[name].shape)}'
            for name in both
            if weights[name].shape != expected[name].shape
        ),
    )


def read_weights(
    path: str | os.PathLike,
    family: str,
    *,
    key: str | None = None,
    prefix: str = 'backbone.',
) -> StateDict:
    """Weights of a backbone under our names, from a file with ours or the official.

    path: file or URL; of a classifier, a backbone, or a detector or segmenter, of which
    the part under `prefix` is taken.  key: outer key of the weights, such as
    'model_ema'; see `unwrap`.

    Raises FileNotFoundError; ValueError for a file that is no checkpoint and for
    official weights of another family.
    """
    weights = unwrap(load_file(path), key)
    if detect_family(weights) is not None:
        weights = from_official(weights, family)
    inner = {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    return inner or weights


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> KeyReport:
    """Load all of the weights, or none when something does not fit.

    allow_missing, allow_unexpected: patterns ('stem.*') of keys that may differ.
    Returns the differences that were allowed.
    Raises ValueError for keys or shapes that differ, all of them named.
    """
    report = compare(weights, module)
    refused = KeyReport(
        not_matching(report.missing, allow_missing),
        not_matching(report.unexpected, allow_unexpected),
        report.mismatched,
    )
    if any(refused):
        advice = 'Keys that may differ go into allow_missing and allow_unexpected'
        if refused.mismatched:
            advice = (
                'Shapes may not differ: build the model that the weights are of (only '
                'another in_channels is adapted)'
            )
        raise ValueError(
            f'the weights do not fit {type(module).__name__}: {refused}. {advice}'
        )
    unexpected = {*report.unexpected}
    module.load_state_dict(
        {k: _plain(v) for k, v in weights.items() if k not in unexpected}, strict=False
    )
    return report


def not_matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that none of the patterns ('stem.*') matches."""
    return [n for n in names if not any(fnmatchcase(n, p) for p in patterns)]


def _plain(weight: Tensor) -> Tensor:
    """A sparse or quantised weight as an ordinary one."""
    return (weight.dequantize() if weight.is_quantized else weight).to_dense()


def adapt_in_channels(weight: Tensor, in_channels: int) -> Tensor:
    """First convolution for pictures with another number of channels.

        in_channels >= C:  w'_c = C / in_channels * (w_c if c < C else mean_c w_c)
        in_channels < C:   w'_c = sum_c w_c / in_channels

    The sum over input channels is kept: a picture whose channels are all equal gives
    the same map.
    weight: (O, C, kH, kW).  Returns (O, in_channels, kH, kW).
    Raises ValueError for another rank and for in_channels below 1.
    """
    if weight.dim() != 4 or type(in_channels) is not int or in_channels < 1:
        raise ValueError(
            f'in_channels is {in_channels!r} for a weight {tuple(weight.shape)}; '
            'expected an integer from 1 and a convolution (O, C, kH, kW)'
        )
    channels = weight.shape[1]
    if in_channels < channels:
        mean = weight.sum(1, keepdim=True) / in_channels
        return mean.repeat(1, in_channels, 1, 1)
    mean = weight.mean(1, keepdim=True)
    others = mean.repeat(1, in_channels - channels, 1, 1)
    return torch.cat([weight, others], 1) * (channels / in_channels)


class PretrainedOptions(NamedTuple):
    """What init_cfg=dict(type='Pretrained', ...) may say.

    checkpoint: file, URL, name of released weights, or 'official'.
    key, prefix: of `read_weights`.  allow_missing, allow_unexpected: of `load_weights`.
    """

    checkpoint: str
    key: str | None = None
    prefix: str = 'backbone.'
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()


def read_options(init_cfg: object) -> PretrainedOptions | None:
    """Options of an init_cfg that names pretrained weights; None for any other.

    init_cfg: mmengine's: a dict, or a list of which one may be of type 'Pretrained'.
    Raises ValueError for a missing checkpoint, unknown options, values of another
    type, and for two pretrained entries or one beside others.
    """
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    found = [
        entry
        for entry in entries
        if isinstance(entry, Mapping) and entry.get('type') == 'Pretrained'
    ]
    if not found:
        return None
    if len(entries) > 1:
        raise ValueError(
            f'init_cfg has {len(entries)} entries, of which {len(found)} Pretrained; '
            "expected dict(type='Pretrained', ...) alone"
        )
    options = {name: value for name, value in found[0].items() if name != 'type'}
    unknown = [name for name in options if name not in PretrainedOptions._fields]
    if unknown:
        raise ValueError(
            f'init_cfg has unknown options {unknown}; expected some of '
            f'{list(PretrainedOptions._fields)}'
        )
    checkpoint = options.get('checkpoint')
    if not isinstance(checkpoint, (str, os.PathLike)) or not str(checkpoint):
        raise ValueError(
            f"init_cfg has checkpoint={checkpoint!r}; expected dict(type='Pretrained', "
            "checkpoint='FILE, URL, name or official')"
        )
    options['checkpoint'] = str(checkpoint)
    for name in ('allow_missing', 'allow_unexpected'):
        patterns = options.get(name, ())
        if isinstance(patterns, str) or not isinstance(patterns, Sequence):
            raise ValueError(
                f"init_cfg has {name}={patterns!r}; expected patterns: ['stem.*']"
            )
        options[name] = tuple(patterns)
    for name in ('key', 'prefix'):
        value = options.get(name, '')
        if not isinstance(value, str) and not (name == 'key' and value is None):
            raise ValueError(f'init_cfg has {name}={value!r}; expected text')
    return PretrainedOptions(**options)
