"""Official names -> ours: a file for each family, listed here.

A family is one file with its table `FAMILIES` (signature, renames, and what renaming
cannot do) and one line in `FAMILIES` below.
"""

import re
import warnings
from collections.abc import Mapping

from torch import Tensor

from mmssm.weights.official import convnext, mila, spatial_mamba, ssm2d, vmamba, vminet
from mmssm.weights.official.family import Family, StateDict
from mmssm.weights.pickles import Foreign

FAMILIES: dict[str, Family] = {
    **spatial_mamba.FAMILIES,
    **vmamba.FAMILIES,
    **vminet.FAMILIES,
    **convnext.FAMILIES,
    **ssm2d.FAMILIES,
    **mila.FAMILIES,
}
CLASSIFIER = re.compile(r'(norm|head|classifier)\.')
OUTER_KEYS = ('state_dict', 'model')


def detect_family(state_dict: Mapping[str, object]) -> str | None:
    """Family whose official names the state dict uses, inside a detector too."""
    for family, table in FAMILIES.items():
        if any(re.search(table.signature, str(name)) for name in state_dict):
            return family
    return None


def from_official(state_dict: Mapping[str, object], family: str) -> StateDict:
    """Weights under the official names -> under ours; nothing else changes.

    state_dict: of the classifier, the backbone, or a whole detector or segmenter
    (backbone under 'backbone.', whose other parts keep their names), bare or inside a
    checkpoint under 'state_dict' or 'model', with or without the 'module.' prefix of
    data parallelism.  A classifier's final norm and head have no place in a backbone
    and are left out.  family: a key of `FAMILIES`.

    Raises ValueError for an unknown family and for weights of another one.
    """
    if family not in FAMILIES:
        raise ValueError(
            f'family is {family!r}; expected one of {", ".join(map(repr, FAMILIES))}'
        )
    weights = unwrap(state_dict)
    found = detect_family(weights)
    if found != family:
        looks = f'those of {found!r}' if found else f'none known: {some(weights)}'
        raise ValueError(
            f'these are not official {family!r} weights; the names look like {looks}'
        )
    table = FAMILIES[family]
    signature = next(n for n in weights if re.search(table.signature, n))
    prefix = 'backbone.' if signature.startswith('backbone.') else ''
    backbone, others = {}, {}
    for name, weight in weights.items():
        if prefix and not name.startswith(prefix):
            others[name] = weight
        elif prefix or not CLASSIFIER.match(name):
            name = name.removeprefix(prefix)
            for pattern, replacement in table.renames:
                name = re.sub(pattern, replacement, name)
            backbone[name] = weight
    try:
        backbone = table.finish(backbone)
    except (IndexError, KeyError, RuntimeError) as error:
        raise ValueError(
            f'these {family!r} weights are not complete, or of another shape: {error}'
        ) from error
    return {f'{prefix}{name}': w for name, w in backbone.items()} | others


def unwrap(checkpoint: Mapping[str, object], key: str | None = None) -> StateDict:
    """The weights in a checkpoint: under `key`, or 'state_dict', 'model', or bare.

    Warns of objects among the weights that could not be read as tensors.
    Raises ValueError when `key` is not there or what is found holds no tensors.
    """
    if key is not None and key not in checkpoint:
        raise ValueError(
            f'the checkpoint has no key {key!r}; it has {some(checkpoint)}'
        )
    outer_found = False
    for outer in (key,) if key else OUTER_KEYS:
        if isinstance(checkpoint.get(outer), Mapping):
            checkpoint, outer_found = checkpoint[outer], True
            break
    weights = {
        str(name).removeprefix('module.'): value
        for name, value in checkpoint.items()
        if isinstance(value, Tensor)
    }
    left = [f'{k} ({v.name})' for k, v in checkpoint.items() if isinstance(v, Foreign)]
    if left and outer_found:
        warnings.warn(f'no tensors, left out: {some(left)}', stacklevel=2)
    if not weights:
        raise ValueError(f'the checkpoint holds no weights; it has {some(checkpoint)}')
    return weights


def some(names: object, most: int = 12) -> str:
    """The first names, and how many more there are."""
    listed = [str(name) for name in names]
    rest = f', … {len(listed) - most} more' if len(listed) > most else ''
    return ', '.join(listed[:most]) + rest
