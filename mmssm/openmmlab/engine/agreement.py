"""Whether channels and ignored labels agree from one end of a config to the other."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmssm.openmmlab.errors import UserError

SEGMENTERS = ('decode_head', 'auxiliary_head')
IGNORED = 255  # the default of mmseg's heads, datasets, metrics and padding


class Conflict(NamedTuple):
    what: str
    fix: str


def check_agreement(cfg: Config, loaders: Sequence[str]) -> None:
    """Raise UserError for the first `Conflict`."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for what, fix in disagreements(cfg, loaders):
            raise UserError(f'{what}. Fix: {fix}')


def disagreements(cfg: Mapping, loaders: Sequence[str]) -> Iterator[Conflict]:
    """Parts of a config that cannot work together.

    loaders: which of 'train', 'val' and 'test' to look at.
    """
    yield from _channels(cfg)
    yield from _single_classes(cfg)
    yield from _ignored_labels(cfg, loaders)


def in_channels(cfg: Mapping) -> int | None:
    """How many channels the backbone takes; None where that cannot be read."""
    backbone = (cfg.get('model') or {}).get('backbone')
    while isinstance(backbone, Mapping) and 'host' in backbone:
        backbone = backbone['host']
    if not isinstance(backbone, Mapping):
        return None
    if 'in_channels' in backbone:
        own = backbone['in_channels']
        return own if type(own) is int else None
    kind = backbone.get('type')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        built = MODELS.get(kind) if isinstance(kind, str) else kind
    if not inspect.isclass(built):
        return None
    for base in built.__mro__:  # a constructor may hand on what it does not name
        if '__init__' in vars(base):
            parameter = inspect.signature(base.__init__).parameters.get('in_channels')
            if parameter is not None:
                return parameter.default if type(parameter.default) is int else None
    return None


def ignored_label(cfg: Mapping) -> int | None:
    """What a segmenter's decode head ignores; None for models without one."""
    for _, head in _segmentation_heads(cfg):
        label = head.get('ignore_index', IGNORED)
        return label if type(label) is int else None
    return None


def _channels(cfg: Mapping) -> Iterator[Conflict]:
    key = 'model.data_preprocessor'
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    mean, std = (preprocessor.get(name) for name in ('mean', 'std'))
    if not isinstance(mean, Sequence) or not isinstance(std, Sequence):
        return
    if len(mean) != len(std):
        yield Conflict(
            f'{key} has {len(mean)} numbers in mean and {len(std)} in std',
            'one number for each channel in both, or a single one for all',
        )
    taken = in_channels(cfg)
    if taken is not None and len(mean) > 1 and len(mean) != taken:
        yield Conflict(
            f'model.backbone takes {taken} channels (in_channels), but {key}.mean has '
            f'{len(mean)} numbers',
            f'in_channels={len(mean)}; or, for pictures of {taken} channels, a single '
            'number in mean and in std, which counts for all channels, and '
            f"LoadImageFromFile(color_type='unchanged'){_bgr(preprocessor, taken)}",
        )


def _bgr(preprocessor: Mapping, channels: int) -> str:
    if preprocessor.get('bgr_to_rgb') and channels != 3:
        return ', and bgr_to_rgb=False'
    return ''


def _segmentation_heads(cfg: Mapping) -> Iterator[tuple[str, Mapping]]:
    for name in SEGMENTERS:
        part = (cfg.get('model') or {}).get(name)
        if isinstance(part, Mapping):
            yield f'model.{name}', part
        elif isinstance(part, list | tuple):
            for index, head in enumerate(part):
                if isinstance(head, Mapping):
                    yield f'model.{name}[{index}]', head


def _losses(head: Mapping) -> list[Mapping]:
    losses = head.get('loss_decode') or dict(type='CrossEntropyLoss')
    return [losses] if isinstance(losses, Mapping) else list(losses)


def _single_classes(cfg: Mapping) -> Iterator[Conflict]:
    for key, head in _segmentation_heads(cfg):
        if head.get('num_classes') != 1:
            continue
        for loss in _losses(head):
            softmax = not loss.get('use_sigmoid') and not loss.get('use_mask')
            if str(loss.get('type')).endswith('CrossEntropyLoss') and softmax:
                yield Conflict(
                    f'{key} has num_classes=1 and a softmax over it, which is always 1:'
                    ' its loss is 0 and nothing is learned',
                    'name the background as a class and set num_classes=2 (for a '
                    'single output then: out_channels=1, threshold=0.5 and '
                    'use_sigmoid=True in loss_decode)',
                )


def _ignored_labels(cfg: Mapping, loaders: Sequence[str]) -> Iterator[Conflict]:
    """Padding and datasets against the label that the heads ignore."""
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    padding = preprocessor.get('seg_pad_val', IGNORED)
    pads = any(preprocessor.get(name) for name in ('size', 'size_divisor'))
    for key, head in _segmentation_heads(cfg):
        ignored, number = head.get('ignore_index', IGNORED), head.get('num_classes')
        if type(ignored) is not int or type(number) is not int:
            continue
        if pads and padding != ignored and padding not in range(number):
            yield Conflict(
                f'{key}.ignore_index is {ignored}, but padding has the label '
                f'{padding} (model.data_preprocessor.seg_pad_val), which is no class: '
                'training stops at the first padded picture',
                f'model.data_preprocessor.seg_pad_val={ignored}, or '
                f'{key}.ignore_index={padding}',
            )
        for loader in loaders:
            yield from _ignored_by_metric(cfg, loader, key, ignored)


def _ignored_by_metric(
    cfg: Mapping, loader: str, key: str, ignored: int
) -> Iterator[Conflict]:
    evaluators = cfg.get(f'{loader}_evaluator') or ()
    single = isinstance(evaluators, Mapping)
    if cfg.get(f'{loader}_cfg') is None or not key.startswith('model.decode_head'):
        return
    for index, metric in enumerate([evaluators] if single else evaluators):
        if not str(metric.get('type')).endswith('IoUMetric'):
            continue
        own = metric.get('ignore_index', IGNORED)
        if own != ignored and IGNORED in (own, ignored):
            place = f'{loader}_evaluator' + ('' if single else f'[{index}]')
            yield Conflict(
                f'{place} ignores the label {own}, but {key} the label {ignored}: the '
                'metric would count what was not learned',
                f'{place}.ignore_index={ignored}',
            )
