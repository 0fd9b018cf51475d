"""Weights: reading files safely, the official names, loading with a report.

A checkpoint file is a pickle, and a pickle can run code.  `load_file` never lets it:
tensors and plain containers are read, and every other object in the file (a released
checkpoint holds its training configuration, for instance) becomes an empty stand-in.
"""

import io
import math
import os
import pickle
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmssm.weights.official import ssm2d as ssm2d_names

StateDict = dict[str, Tensor]


class Family(NamedTuple):
    """How the official names of one family become ours.

    signature: a pattern that only keys of this family match, after the prefix.
    renames: pairs (pattern, replacement), all applied in this order.
    finish: what renaming cannot do, on the backbone's renamed keys.
    """

    signature: str
    renames: tuple[tuple[str, str], ...]
    finish: Callable[[StateDict], StateDict]


def _stack_fusion_kernels(weights: StateDict) -> StateDict:
    """Three kernels (C, 1, 3, 3) -> one parameter (3, C, 3, 3)."""
    stacked = {}
    for name, weight in weights.items():
        if not re.search(r'kernel_3(_[12])?$', name):
            stacked[name] = weight
        elif name.endswith('kernel_3'):
            parts = [weight, weights[f'{name}_1'], weights[f'{name}_2']]
            stacked[name.replace('kernel_3', 'kernels')] = torch.cat(
                parts, 1
            ).transpose(0, 1)
    return stacked


def _spatial_mamba(weights: StateDict) -> StateDict:
    """Open each stage with the downsampling that closed the one before."""
    moved = {}
    for name, weight in _stack_fusion_kernels(weights).items():
        found = re.match(r'stages\.(\d+)\.downsample\.conv\.(.*)', name)
        if found:
            name = f'stages.{int(found[1]) + 1}.downsample.{found[2]}'
        moved[name] = weight
    return moved


def _vminet(weights: StateDict) -> StateDict:
    """Name each stage's first part, count blocks from 0, put weights on their grid."""
    moved = {}
    for name, weight in weights.items():
        found = re.match(r'stages\.(\d+)\.(\d+)\.(.*)', name)
        if found:
            stage, part, rest = int(found[1]), int(found[2]), found[3]
            place = f'blocks.{part - 1}' if part else 'downsample'
            name = f'stages.{stage}.{place}.{rest}'
        if name.endswith('.attention.position'):
            side = math.isqrt(weight.numel())
            weight = weight.reshape(side, side)
        moved[name] = weight
    return moved


FAMILIES = {
    'spatial_mamba': Family(
        signature=r'layers\.\d+\.blocks\.\d+\.self_attention\.state_fusion\.alpha$',
        renames=(
            (r'^patch_embed\.', 'stem.'),
            (r'^layers\.', 'stages.'),
            (r'^outnorm(\d+)\.', r'out_norms.\1.'),
            (r'\.cpe([12])\.', r'.position\1.'),
            (r'\.ln_([12])\.', r'.norm\1.'),
            (r'\.self_attention\.', '.ssm.'),
            (r'\.conv2d\.', '.conv.'),
            (r'\.x_proj_weight$', '.x_proj.weight'),
            (r'\.dt_projs_(weight|bias)$', r'.dt_proj.\1'),
            (r'\.A_logs$', '.A_log'),
            (r'\.Ds$', '.D'),
        ),
        finish=_spatial_mamba,
    ),
    'vminet': Family(
        signature=r'stages\.\d+\.\d+\.sum\.weight$',
        renames=(
            (r'^stem\.0\.', 'stem.'),
            (r'\.dwconv\.', '.local.'),
            (r'\.f1\.conv\.', '.attention.query.'),
            (r'\.f2\.conv\.', '.attention.key.'),
            (r'\.sum\.weight$', '.attention.position'),
            (r'\.stack$', '.attention.mix'),
            (r'\.g\.', '.project.'),
            (r'\.bn\.', '.norm.'),
        ),
        finish=_vminet,
    ),
    # the released names, and those of mmpretrain
    'convnext': Family(
        signature=r'stages\.\d+\.\d+\.(dwconv|depthwise_conv)\.weight$',
        renames=(
            (r'^downsample_layers\.0\.0\.', 'stem.conv.'),
            (r'^downsample_layers\.0\.1\.', 'stem.norm.'),
            (r'^downsample_layers\.(\d+)\.0\.', r'stages.\1.downsample.norm.'),
            (r'^downsample_layers\.(\d+)\.1\.', r'stages.\1.downsample.conv.'),
            (r'^stages\.(\d+)\.(\d+)\.', r'stages.\1.blocks.\2.'),
            (r'^norm(\d+)\.', r'out_norms.\1.'),
            (r'\.dwconv\.', '.depthwise_conv.'),
            (r'\.(pwconv|pointwise_conv)([12])\.', r'.mlp.fc\2.'),
        ),
        finish=dict,
    ),
    # a 2-D SSM alone, in Swin, in ViT (with the names of mmdet's and mmseg's), in Mega
    'ssm2d': Family(signature=r'^C_1$', renames=(), finish=ssm2d_names.layers),
    'ssm2d_swin': Family(
        signature=r'layers\.\d+\.blocks\.\d+\.(mlp\.)?move\.C_1$',
        renames=(
            (r'^layers\.', 'stages.'),
            (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
            (r'\.attn\.', '.attn.w_msa.'),
            (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
            (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
            (r'\.mlp\.move\.', '.ffn.layers.0.0.mix.ssm2d.'),
            (r'\.move\.', '.attn.mix.ssm2d.'),
        ),
        finish=ssm2d_names.swin,
    ),
    'ssm2d_vit': Family(
        signature=r'transformer\.layers\.\d+\.\d+\.fn\.move\.C_1$',
        renames=(
            (r'^pos_embedding$', 'pos_embed'),
            (r'^to_patch_embedding\.1\.', 'patch_embed.projection.'),
            (r'^transformer\.', ''),
            (r'\.0\.norm\.', '.ln1.'),
            (r'\.1\.norm\.', '.ln2.'),
            (r'\.0\.fn\.move\.', '.attn.mix.ssm2d.'),
            (r'\.0\.fn\.to_out\.0\.', '.attn.attn.out_proj.'),
            (r'\.0\.fn\.', '.attn.attn.'),
            (r'\.1\.fn\.(net\.0|fc1)\.', '.ffn.layers.0.0.'),
            (r'\.1\.fn\.(net\.3|fc2)\.', '.ffn.layers.1.'),
            (r'\.1\.fn\.move\.', '.ffn.layers.0.0.mix.ssm2d.'),
        ),
        finish=ssm2d_names.vit,
    ),
    'ssm2d_mega': Family(
        signature=r'blocks\.\d+\.mega_layer\.mx_proj\.weight$',
        renames=(
            (r'^pos_embed$', 'stem.position'),
            (r'^patch_embed\.proj\.', 'stem.conv.'),
            (r'^final_norm\.norm\.', 'out_norms.3.norm.'),
            (r'\.nffn\.norm\.norm\.', '.norm.'),
            (r'\.nffn\.', '.'),
            (r'\.mega_layer\.', '.attention.'),
            (r'\.attention\.norm\.norm\.', '.attention.norm.'),
            (r'\.attention\.gamma$', '.attention.scale'),
            (r'\.attention\.beta$', '.attention.shift'),
            (r'\.rel_pos_bias\.rel_pos_bias$', '.position.bias'),
            (r'\.move\.', '.mixer.'),
            (r'\.v_proj\.', '.value.'),
            (r'\.mx_proj\.', '.gates.'),
            (r'\.h_proj\.', '.hidden.'),
        ),
        finish=ssm2d_names.mega,
    ),
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
        looks = f'those of {found!r}' if found else f'none known: {_some(weights)}'
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
    backbone = table.finish(backbone)
    return {f'{prefix}{name}': w for name, w in backbone.items()} | others


def unwrap(checkpoint: Mapping[str, object], key: str | None = None) -> StateDict:
    """The weights in a checkpoint: under `key`, or 'state_dict', 'model', or bare.

    Raises ValueError when `key` is not there or what is found holds no tensors.
    """
    if key is not None and key not in checkpoint:
        raise ValueError(
            f'the checkpoint has no key {key!r}; it has {_some(checkpoint)}'
        )
    for outer in (key,) if key else OUTER_KEYS:
        if isinstance(checkpoint.get(outer), Mapping):
            checkpoint = checkpoint[outer]
            break
    weights = {
        str(name).removeprefix('module.'): value
        for name, value in checkpoint.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise ValueError(f'the checkpoint holds no weights; it has {_some(checkpoint)}')
    return weights


class KeyReport(NamedTuple):
    """What did not fit when weights were loaded; each a sorted list of names."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        parts = [
            f'{title} ({len(names)}): {_some(names)}'
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


def load_file(path: str | os.PathLike) -> dict[str, object]:
    """Read a checkpoint on CPU without running any code that it may hold.

    path: a file, or a URL, which is downloaded once into torch.hub's folder.
    Raises FileNotFoundError, and ValueError for a file that is not a checkpoint or is
    not complete.
    """
    local = _download(str(path)) if re.match(r'https?://', str(path)) else Path(path)
    if not local.is_file():
        raise FileNotFoundError(
            f'no checkpoint at {str(path)!r}; download it there, or give the path of '
            'the file (init_cfg=None trains from scratch)'
        )
    try:
        try:
            content = torch.load(local, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            content = torch.load(
                local, map_location='cpu', weights_only=False, pickle_module=_INERT
            )
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f'{str(path)!r} is not a complete checkpoint ({reason}); its size is '
            f'{local.stat().st_size} bytes: compare with the source, download it again'
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{str(path)!r} holds a {type(content).__name__}; expected a checkpoint '
            'or a state dict'
        )
    return dict(content)


def save_file(content: Mapping[str, object], path: str | os.PathLike) -> None:
    """torch.save to a temporary name beside `path`, then moved: whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            torch.save(content, file)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class _Inert(dict):
    """Stands for any object of a class that is not on the list; does nothing."""

    __hash__ = object.__hash__

    def __init__(self, *ignored: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...


class _InertUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers; any other class becomes `_Inert`."""

    allowed = {
        ('collections', 'OrderedDict'): OrderedDict,
        ('torch', 'Size'): torch.Size,
        ('torch', 'device'): torch.device,
        ('torch._utils', '_rebuild_tensor'): torch._utils._rebuild_tensor,
        ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
        ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
        ('torch.nn.parameter', 'Parameter'): nn.Parameter,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        if module == 'torch':
            value = getattr(torch, name, None)
            storage = isinstance(value, type) and name.endswith('Storage')
            if storage or isinstance(value, torch.dtype):
                return value
        return _Inert


def _inert_load(file: io.BufferedIOBase, **options: object) -> object:
    return _InertUnpickler(file, **options).load()


_INERT = SimpleNamespace(
    __name__='mmssm.weights.files', Unpickler=_InertUnpickler, load=_inert_load
)


def _download(url: str) -> Path:
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    target = folder / url.rsplit('/', 1)[-1]
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target))
    return target


def not_matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that none of the patterns ('stem.*') matches."""
    return [n for n in names if not any(fnmatchcase(n, p) for p in patterns)]


def _some(names: object, most: int = 12) -> str:
    listed = [str(name) for name in names]
    rest = f', … {len(listed) - most} more' if len(listed) > most else ''
    return ', '.join(listed[:most]) + rest
