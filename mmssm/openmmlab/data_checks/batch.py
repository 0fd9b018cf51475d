"""One batch of a config through its pipeline, data preprocessor, model and loss."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmssm.openmmlab.data_checks.leaves import first_lines, quiet
from mmssm.openmmlab.data_checks.report import Report, some

SHAPES = 8  # pictures whose sizes are looked at, at most
FIXES = (
    # what the message says, and the way out
    (
        'only one of size and size_divisor',
        'data_preprocessor=dict(size=CROP_SIZE) or size_divisor=32, not both',
    ),
    (
        'is invalid for input of size',
        'look at in_channels of the heads against what the backbone gives',
    ),
    (
        'mat1 and mat2 shapes',
        'look at in_channels of the heads against what the backbone gives',
    ),
    (
        'channels',
        'in_channels of the neck and the heads must be what the backbone gives at each '
        'level, in_channels of the backbone what the pictures have',
    ),
    (
        'more than 1 value per channel',
        'batch norm needs two pictures: train_dataloader.batch_size=2, or norm_cfg='
        "dict(type='GN', num_groups=32)",
    ),
    ("'gt_masks'", 'LoadAnnotations(with_mask=True), or a model without mask head'),
    ("'masks'", 'LoadAnnotations(with_mask=True), or a model without mask head'),
    ("'gt_sem_seg'", 'LoadAnnotations (with_seg=True in mmdet) in train_pipeline'),
    ("'bboxes'", 'LoadAnnotations(with_bbox=True) in train_pipeline'),
)


class Stage(NamedTuple):
    """A step of the batch; what to look at when it fails."""

    name: str
    look: str


LOADING = Stage('loading the batch', 'look at train_dataloader and its pipeline')
BUILDING = Stage('building the model', 'look at model in the config')
PREPARING = Stage(
    'model.data_preprocessor', 'look at model.data_preprocessor and train_pipeline'
)
LOSS = Stage('the loss', 'look at the heads of the model against the data')


class Failed(Exception):
    """A step that failed; its finding is in the report."""


def check_batch(report: Report, cfg: Mapping) -> None:
    """Report what goes wrong before the first step of a training.

    Pretrained weights are not loaded.  Labels, channels and sizes of the batch are
    compared with what heads, backbone and preprocessor expect before they meet.
    """
    began = time.monotonic()
    try:
        _try_batch(report, copy.deepcopy(cfg))
    except Failed:
        return
    report.fact(f'{time.monotonic() - began:.1f} s')


def _try_batch(report: Report, cfg: Mapping) -> None:
    from mmengine.model.utils import revert_sync_batchnorm
    from mmengine.registry import MODELS
    from mmengine.runner import Runner

    loader = cfg['train_dataloader']
    loader.update(num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    forget_pretrained(cfg['model'])
    with _reporting(report, LOADING):
        built = Runner.build_dataloader(loader, seed=0)
        batch = next(iter(built), None)
    if batch is None:
        report.error(
            f'{len(built.dataset)} pictures give no batch of {loader.get("batch_size")}'
            ' (drop_last)',
            'train_dataloader.batch_size=1, or drop_last=False',
        )
        return
    if 'inputs' not in batch:
        report.error(
            f'the pipeline gives no inputs, but {some(sorted(batch))}',
            'it must end in PackDetInputs (mmdet) or PackSegInputs (mmseg)',
        )
        return
    _check_shapes(report, cfg, built.dataset, built.batch_size or 1)
    with _reporting(report, BUILDING):
        model = revert_sync_batchnorm(MODELS.build(cfg['model']))
        model.init_weights()
        model.train()
    if _check_channels(report, cfg, batch):
        return
    with _reporting(report, PREPARING):
        data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    if _check_labels(report, model, data):
        return
    with _reporting(report, LOSS), torch.no_grad():
        losses = model(**data, mode='loss')
        model.parse_losses(losses)
    _check_losses(report, losses, data)


class _reporting:
    """Turns an exception into a finding of the report and into Failed."""

    def __init__(self, report: Report, stage: Stage) -> None:
        self.report = report
        self.stage = stage
        self.silence = quiet()

    def __enter__(self) -> None:
        self.silence.__enter__()

    def __exit__(self, kind: type | None, error: Exception | None, trace: object):
        self.silence.__exit__(None, None, None)
        if not isinstance(error, Exception):
            return
        text = first_lines(error)
        fix = next((fix for words, fix in FIXES if words in text), self.stage.look)
        self.report.error(
            f'{self.stage.name} fails with {type(error).__name__}: {text}', fix
        )
        raise Failed from error


def forget_pretrained(node: object) -> None:
    """Take pretrained weights out of a model's config: no download, no reading."""
    if isinstance(node, dict):
        start = node.get('init_cfg')
        if isinstance(start, dict) and start.get('type') == 'Pretrained':
            node['init_cfg'] = None
        if 'pretrained' in node and isinstance(node['pretrained'], str):
            node['pretrained'] = None
        for part in node.values():
            forget_pretrained(part)
    elif isinstance(node, list | tuple):
        for part in node:
            forget_pretrained(part)


def _pictures(batch: Mapping) -> Sequence[Tensor]:
    inputs = batch['inputs']
    if isinstance(inputs, Mapping):  # several branches of semi-supervised training
        return [tensor for part in inputs.values() for tensor in part]
    return list(inputs)


def _check_shapes(
    report: Report, cfg: Mapping, dataset: object, batch_size: int
) -> None:
    """Segmenters stack pictures of one size only, unless their preprocessor pads."""
    preprocessor = cfg['model'].get('data_preprocessor') or {}
    if 'Seg' not in str(preprocessor.get('type')) or batch_size < 2:
        return
    size, divisor = preprocessor.get('size'), preprocessor.get('size_divisor')
    count = min(SHAPES, len(dataset))
    with _reporting(report, LOADING):
        loaded = [dataset[i * len(dataset) // count] for i in range(count)]
    shapes = sorted({tuple(item['inputs'].shape[-2:]) for item in loaded})
    if size is not None:
        larger = [shape for shape in shapes if shape[0] > size[0] or shape[1] > size[1]]
        if larger and len(shapes) > 1:
            report.error(
                f'pictures leave the pipeline with sizes (height, width) {some(shapes)}'
                f', of which some exceed data_preprocessor.size {tuple(size)}: batches '
                'cannot be stacked',
                f'RandomCrop(crop_size={tuple(size)}) in train_pipeline, or '
                'size_divisor=32 in the place of size',
            )
            raise Failed
    elif not divisor and len(shapes) > 1:
        report.error(
            f'pictures leave the pipeline with sizes (height, width) {some(shapes)}, '
            'and data_preprocessor has neither size nor size_divisor to pad them',
            'data_preprocessor=dict(size=CROP_SIZE) with RandomCrop in train_pipeline, '
            'or size_divisor=32',
        )
        raise Failed


def _check_channels(report: Report, cfg: Mapping, batch: Mapping) -> bool:
    from mmssm.openmmlab.engine.agreement import in_channels

    given = sorted({picture.shape[0] for picture in _pictures(batch)})
    taken = in_channels(cfg)
    mean = (cfg['model'].get('data_preprocessor') or {}).get('mean') or (0,)
    if len(given) > 1:
        report.error(
            f'pictures of one batch have {given} channels',
            "LoadImageFromFile(color_type='color') makes three of any",
        )
        return True
    if taken is not None and given != [taken]:
        report.error(
            f'the pipeline gives pictures of {given[0]} channels, but model.backbone '
            f'takes {taken}',
            _channels_fix(given[0]),
        )
        return True
    if len(mean) > 1 and len(mean) != given[0]:
        report.error(
            f'the pipeline gives pictures of {given[0]} channels, but '
            f'model.data_preprocessor.mean has {len(mean)} numbers',
            'a single number in mean and in std, which counts for all channels',
        )
        return True
    return False


def _channels_fix(given: int) -> str:
    if given == 3:
        return (
            "LoadImageFromFile(color_type='unchanged') in every pipeline, if the files "
            'have more (the default makes three channels of any), or in_channels=3'
        )
    return (
        f'model.backbone.in_channels={given}, to which pretrained weights are adapted, '
        'and a single number in mean and in std; or '
        "LoadImageFromFile(color_type='color'), which makes three channels of any"
    )


def _check_labels(report: Report, model: nn.Module, data: Mapping) -> bool:
    """Labels of the batch against the classes of the heads, before a loss sees them."""
    samples = data.get('data_samples')
    if not isinstance(samples, Sequence):
        return False
    before = report.errors
    for name, head in segmentation_heads(model):
        maps = [s.gt_sem_seg.data for s in samples if 'gt_sem_seg' in s]
        values = {int(v) for labels in maps for v in labels.unique()}
        strange = sorted(values - {*range(head.num_classes), head.ignore_index})
        if strange:
            padding = getattr(model.data_preprocessor, 'seg_pad_val', None)
            padded = f' ({padding} is what padding has)' if padding in strange else ''
            report.error(
                f'the batch has labels {strange}{padded}; {name} has '
                f'{head.num_classes} classes and ignores {head.ignore_index}',
                'ignore_index of the heads and data_preprocessor.seg_pad_val must be '
                'one value, and num_classes the number of the classes',
            )
        elif maps and values == {head.ignore_index}:
            report.warning(
                f'every pixel of the batch is ignored by {name}',
                'look at the label maps and at reduce_zero_label',
            )
    number = _detector_classes(model)
    labels = [s.gt_instances.labels for s in samples if 'gt_instances' in s]
    largest = max((int(part.max()) for part in labels if len(part)), default=-1)
    if number is not None and largest >= number:
        report.error(
            f'the batch has the label {largest}, but the heads have {number} classes',
            f'num_classes={largest + 1} at least; labels are 0, 1, 2, …',
        )
    elif labels and largest < 0:
        report.warning(
            'no picture of the batch has an object',
            'filter_cfg=dict(filter_empty_gt=True) leaves such pictures out',
        )
    return report.errors > before


def segmentation_heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Heads of a segmenter that have classes and a label to ignore."""
    for name in ('decode_head', 'auxiliary_head'):
        part = getattr(model, name, None)
        several = isinstance(part, nn.ModuleList)
        for index, head in enumerate(part if several else [part]):
            numbers = getattr(head, 'num_classes', 0), getattr(head, 'ignore_index', '')
            edges = type(head).__name__ == 'STDCHead'
            if all(type(number) is int for number in numbers) and not edges:
                yield f'{name}[{index}]' if several else name, head


def _detector_classes(model: nn.Module) -> int | None:
    """The fewest classes of a detector's box heads; None for other models."""
    names = ('bbox_head', 'roi_head.bbox_head')
    found = []
    for name in names:
        part = model
        for step in name.split('.'):
            part = getattr(part, step, None)
        for head in part if isinstance(part, nn.ModuleList) else [part]:
            number = getattr(head, 'num_classes', None)
            found += [number] if type(number) is int else []
    return min(found, default=None)


def _check_losses(report: Report, losses: Mapping, data: Mapping) -> None:
    values = {
        name: float(sum(part.mean() for part in _tensors(value)))
        for name, value in losses.items()
    }
    report.fact(' · '.join(f'{name} {value:.4g}' for name, value in values.items()))
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        samples = data.get('data_samples') or ()
        paths = [getattr(sample, 'img_path', '?') for sample in samples]
        report.error(
            f'not finite: {", ".join(wrong)}, for {some(paths)}',
            'look at the boxes and label maps of these pictures',
        )
    counted = {n: v for n, v in values.items() if 'loss' in n and n not in wrong}
    if counted and not any(counted.values()) and not wrong:
        report.warning(
            'every loss is 0: nothing would be learned from this batch',
            'look at num_classes, ignore_index and the labels',
        )


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach().float()]
    return [tensor for part in value for tensor in _tensors(part)]
