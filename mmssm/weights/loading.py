"""Weights into a module: what fits, what does not, and nothing in silence."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

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
        raise ValueError(
            f'the weights do not fit {type(module).__name__}: {refused}. Keys that '
            'may differ go into allow_missing and allow_unexpected'
        )
    module.load_state_dict(
        {k: v for k, v in weights.items() if k not in report.unexpected}, strict=False
    )
    return report


def not_matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that none of the patterns ('stem.*') matches."""
    return [n for n in names if not any(fnmatchcase(n, p) for p in patterns)]
