"""What a batch holds against what preprocessor, backbone and heads expect."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from mmssm.openmmlab.data_checks.batch_steps import LOADING, Failed, reporting
from mmssm.openmmlab.data_checks.report import Report, some

SHAPES = 8  # pictures whose sizes are looked at, at most


def _pictures(batch: Mapping) -> Sequence[Tensor]:
    inputs = batch['inputs']
    if isinstance(inputs, Mapping):  # several branches of semi-supervised training
        return [tensor for part in inputs.values() for tensor in part]
    return list(inputs)


def check_shapes(
    report: Report, cfg: Mapping, dataset: object, batch_size: int
) -> None:
    """Segmenters stack pictures of one size only, unless their preprocessor pads."""
    preprocessor = cfg['model'].get('data_preprocessor') or {}
    if 'Seg' not in str(preprocessor.get('type')) or batch_size < 2:
        return
    size, divisor = preprocessor.get('size'), preprocessor.get('size_divisor')
    count = min(SHAPES, len(dataset))
    with reporting(report, LOADING):
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


def check_channels(report: Report, cfg: Mapping, batch: Mapping) -> bool:
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


def check_labels(report: Report, model: nn.Module, data: Mapping) -> bool:
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


def check_losses(report: Report, losses: Mapping, data: Mapping) -> None:
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
