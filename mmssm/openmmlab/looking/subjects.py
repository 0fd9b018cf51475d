"""Backbones of configs and of the zoo, with pictures as they take them."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm import zoo
from mmssm.analysis.mixing import DIRECTIONS
from mmssm.openmmlab.commands.flops import channels, is_name
from mmssm.openmmlab.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

UNTRAINED = 'none'
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
LONGEST = 512  # side of a picture that is looked at when nobody says how large
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


class Subject(NamedTuple):
    """A backbone in evaluation mode, and how it takes pictures.

    mean, std: of its channels.  bgr: whether blue comes first.
    """

    title: str
    backbone: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    bgr: bool = False

    def input(self, picture: Tensor) -> Tensor:
        """A picture (3, H, W), 0 to 1 in RGB -> (1, 3, H, W) for the backbone.

        Raises UserError for a backbone that takes another number of channels.
        """
        taken = channels(self.backbone)
        if taken != 3:
            raise UserError(f'{self.title} takes {taken} channels; a picture has 3')
        mean, std = (
            torch.tensor(t, dtype=torch.float32)[:, None, None]
            for t in (self.mean, self.std)
        )
        picture = picture.flip(0) if self.bgr else picture
        x = (picture.float() * 255 - mean) / std
        return x[None].to(next(self.backbone.parameters()).device)


def find(
    names: Sequence[str],
    checkpoints: Sequence[str],
    options: Mapping[str, object] | None,
    device: str,
) -> list[Subject]:
    """A subject for each pair; one name or one checkpoint goes with all of the others.

    names: configs or models of the zoo.  checkpoints: files, 'official' or 'none'.
    Raises UserError for what is neither, and where the numbers do not fit.
    """
    pairs = paired(names, checkpoints)
    return [_subject(name, weights, options, device) for name, weights in pairs]


def paired(names: Sequence[str], checkpoints: Sequence[str]) -> list[tuple[str, str]]:
    """Names with checkpoints; one of either goes with all of the other."""
    count = max(len(names), len(checkpoints))
    if {len(names), len(checkpoints)} - {1, count}:
        raise UserError(
            f'there are {len(names)} models and {len(checkpoints)} checkpoints; '
            "expected one for each, or one for all, 'none' where there is none"
        )
    repeated = ([*values] * (count // len(values)) for values in (names, checkpoints))
    return [*zip(*repeated, strict=True)]


def directions(names: Sequence[str]) -> tuple[list[str], list[str | None]]:
    """Names without '@DIRECTION' at their end, and the directions, None without one.

    Raises UserError for a direction that there is not.
    """
    bare, found = [], []
    for given in names:
        name, at, direction = given.rpartition('@')
        if not at or Path(given).exists():
            name, direction = given, None
        elif direction not in DIRECTIONS:
            raise UserError(
                f'{given} ends in @{direction}; expected one of '
                f'{", ".join(f"@{d}" for d in DIRECTIONS)}, or a file that exists'
            )
        bare.append(name)
        found.append(direction)
    return bare, found


def _subject(
    name: str, checkpoint: str, options: Mapping[str, object] | None, device: str
) -> Subject:
    untrained = checkpoint == UNTRAINED
    state = 'untrained' if untrained else Path(checkpoint).stem
    torch.manual_seed(0)
    if is_name(name, options):
        backbone = zoo.create_model(
            name, None if untrained else checkpoint, features_only=True
        )
        backbone.to(device).eval()
        return Subject(f'{name}\n{state}', backbone, *IMAGENET)
    from mmssm.openmmlab.engine import configs, explaining

    cfg = configs.read_config(name, options)
    configs.require(cfg)
    if not cfg.model.get('backbone'):
        raise UserError(f'the model of {name} has no backbone')
    with explaining.explained(cfg):
        backbone = _untrained(cfg) if untrained else _trained(cfg, checkpoint, device)
    backbone.to(device)
    backbone.eval()  # some return nothing from it
    given = cfg.model.get('data_preprocessor') or {}
    mean, std = given.get('mean'), given.get('std')
    return Subject(
        f'{short(name)}\n{state}',
        backbone,
        mean or IMAGENET[0],
        std or IMAGENET[1],
        takes_bgr(cfg),
    )


def takes_bgr(cfg: 'Config') -> bool:
    """Whether blue comes first in what the backbone of a config gets."""
    from mmssm.openmmlab.engine.configs import CLASSIFICATION, task_scope

    given = cfg.model.get('data_preprocessor') or {}
    if task_scope(cfg) != CLASSIFICATION:
        return not given.get('bgr_to_rgb', False)
    # data sets of mmpretrain that hold their pictures, such as CIFAR, hold RGB
    steps = cfg.get('test_pipeline') or [{'type': 'LoadImageFromFile'}]
    read = str(steps[0]['type']).endswith('LoadImageFromFile')
    return read and not given.get('to_rgb', False)


def short(name: str, width: int = 24) -> str:
    """A config's name in lines that are short enough for a picture."""
    lines = ['']
    for part in re.findall('[^_]+_?', Path(name).stem):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append('')
        lines[-1] += part
    return '\n'.join(lines)


def _trained(cfg: 'Config', checkpoint: str, device: str) -> nn.Module:
    from mmssm.openmmlab.prediction import trained_model

    return trained_model(cfg, checkpoint, device)[0].backbone


def _untrained(cfg: 'Config') -> nn.Module:
    """The backbone as it is before any weights are loaded."""
    from mmengine.logging import MMLogger
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, DefaultScope

    from mmssm.openmmlab.engine.config_keys import check_config
    from mmssm.openmmlab.engine.configs import task_scope

    MMLogger.get_current_instance().setLevel('ERROR')
    check_config(cfg)
    with DefaultScope.overwrite_default_scope(task_scope(cfg)):
        plain = _without_weights(cfg.model.backbone.to_dict())
        backbone = revert_sync_batchnorm(MODELS.build(plain))
        backbone.init_weights()
    return backbone


def _without_weights(node: object) -> object:
    """Settings without those that ask for pretrained weights."""
    if isinstance(node, Mapping):
        return {
            key: _without_weights(value)
            for key, value in copy.copy(node).items()
            if not (key == 'init_cfg' and 'Pretrained' in str(value))
            and not (key == 'pretrained' and isinstance(value, str))
        }
    if isinstance(node, list | tuple):
        return type(node)(map(_without_weights, node))
    return node


def read(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """A picture (3, H, W), 0 to 1, in RGB, turned as its Exif says.

    size: what it is scaled to; by default its own, the longer side at most LONGEST.
    Raises UserError for a file that is no picture.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            array = np.asarray(ImageOps.exif_transpose(file).convert('RGB'))
    except FileNotFoundError as error:
        raise UserError(f'there is no picture at {path}') from error
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f'{path} cannot be read as a picture: {error}') from error
    picture = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255
    if size is None:
        scale = min(1.0, LONGEST / max(picture.shape[1:]))
        size = tuple(max(round(n * scale), 1) for n in picture.shape[1:])
    if tuple(picture.shape[1:]) != tuple(size):
        picture = F.interpolate(
            picture[None], size, mode='bilinear', antialias=True
        ).clamp(0, 1)[0]
    return picture


def pictures(place: str, count: int, size: tuple[int, int]) -> list[Tensor]:
    """The first pictures of a folder, or the one of a file."""
    return [read(path, size) for path in _files(place, count)]


def _files(place: str, count: int) -> Iterable[Path]:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return [folder]
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURES]
    if not found:
        raise UserError(f'the folder {place} has no pictures ({", ".join(PICTURES)})')
    return found[:count]
