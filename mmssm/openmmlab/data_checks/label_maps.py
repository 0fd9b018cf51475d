"""Checks of a data set of pictures and label maps, as mmseg reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmssm.openmmlab.data_checks.label_files import (
    Pair,
    all_there,
    check_orphans,
    explain_empty,
    folders_of,
)
from mmssm.openmmlab.data_checks.label_values import Values, check_values
from mmssm.openmmlab.data_checks.leaves import Leaf, Parsed
from mmssm.openmmlab.data_checks.picture_files import (
    check_contents,
    is_ambiguous,
    report_turned,
    report_unreadable,
)
from mmssm.openmmlab.data_checks.pictures import (
    Loading,
    Picture,
    loading,
    read_label_map,
    read_picture,
)
from mmssm.openmmlab.data_checks.report import Report, sample, some


def check_label_maps(
    report: Report,
    leaf: Leaf,
    parsed: Parsed,
    classes: Sequence[str],
    samples: int | None = None,
    files: int | None = None,
    channels: int | None = None,
    ignored: int | None = None,
) -> list[str]:
    """Check one segmentation data set of a config; returns the paths of its pictures.

    classes: those of metainfo, or the data set's own.  samples: how many pairs to
    open, files: how many to look for, None for all.  channels: how many the model
    takes, ignored: the label that its heads ignore, None if unknown.
    """
    dataset = parsed.dataset
    folders = folders_of(dataset)
    pictures = [entry['img_path'] for entry in parsed.entries]
    if not pictures:
        explain_empty(report, folders)
        return []
    report.fact(f'{folders.pictures}: {len(pictures)} pictures')
    if folders.maps is None and not any(e.get('seg_map_path') for e in parsed.entries):
        if not leaf.settings.get('test_mode'):
            report.error(
                f'{leaf.key} names no folder of label maps',
                "data_prefix=dict(img_path=…, seg_map_path='FOLDER')",
            )
        return pictures
    pairs = [
        Pair(entry['img_path'], entry.get('seg_map_path') or '')
        for entry in sample(parsed.entries, files)
    ]
    if not all_there(report, folders, pairs):
        return pictures
    if folders.map_suffix.lower() in ('.jpg', '.jpeg'):
        report.error(
            f'label maps are {folders.map_suffix} files: JPEG changes the values of '
            'pixels',
            'make the label maps again as PNG and set seg_map_suffix',
        )
        return pictures
    check_orphans(report, folders, parsed)
    _check_loading(report, leaf.settings, dataset)
    chosen = sample(pairs, samples)
    values = Values(
        reduce=bool(getattr(dataset, 'reduce_zero_label', False)),
        ignored=getattr(dataset, 'ignore_index', 255) if ignored is None else ignored,
    )
    how = loading(leaf.settings.get('pipeline') or ())
    _check_pairs(report, chosen, how, channels, values)
    if values.pixels:
        check_values(report, values, classes)
    report.fact(f'{len(chosen)} of {len(pairs)} pairs opened')
    return pictures


def _check_loading(report: Report, settings: Mapping, dataset: object) -> None:
    reduce = getattr(dataset, 'reduce_zero_label', False)
    for step in settings.get('pipeline') or ():
        own = step.get('reduce_zero_label')
        if own is not None and own != reduce:
            report.error(
                f'LoadAnnotations has reduce_zero_label={own}, the dataset {reduce}; '
                'mmseg stops at the first picture',
                'set reduce_zero_label in the dataset only',
            )


def _check_pairs(
    report: Report,
    pairs: Sequence[Pair],
    how: Loading,
    channels: int | None,
    values: Values,
) -> None:
    broken, coloured, sizes, wide, turned = [], [], [], [], []
    good: list[tuple[str, Picture]] = []
    for pair in pairs:
        picture = read_picture(pair.picture) if how.known else None
        labels = read_label_map(pair.labels)
        broken += [found for found in (picture, labels) if isinstance(found, str)]
        if isinstance(picture, Picture):
            good.append((pair.picture, picture))
        if isinstance(picture, str) or isinstance(labels, str):
            continue
        if labels.ndim != 2:
            coloured.append(pair.labels)
            continue
        shape = labels.shape[::-1]
        if picture is not None and shape != how.size(picture):
            if shape == picture.size:
                turned.append(f'{pair.picture} (orientation {picture.tag})')
            else:
                sizes.append(f'{pair.picture} {how.size(picture)}, map {shape}')
        elif picture is not None and is_ambiguous(picture, how):
            turned.append(f'{pair.picture} (orientation {picture.tag})')
        if not np.can_cast(labels.dtype, np.uint8) and not _fits(labels):
            wide.append(pair.labels)
        else:
            values.add(labels, pair.labels)
    report_unreadable(report, broken)
    check_contents(report, good, how, channels)
    report_turned(report, turned)
    if coloured:
        report.error(
            f'label maps with colours instead of class numbers: {some(coloured)}',
            'convert them: one channel whose values are 0, 1, 2, … in the order of '
            'metainfo.classes',
        )
    if sizes:
        report.error(
            f'pictures and label maps differ in size (width, height): {some(sizes)}',
            'resize the label maps with nearest-neighbour interpolation, or name the '
            'right folder',
        )
    if wide:
        values.pixels.clear()
        report.error(
            f'label maps with values outside of 0 to 255, of which mmseg keeps the low '
            f'8 bits: {some(wide)}',
            'convert them to 8 bits with one number per class',
        )


def _fits(labels: np.ndarray) -> bool:
    """Whether every value is a whole number of 8 bits."""
    if labels.size == 0:
        return True
    if labels.min() < 0 or labels.max() > 255:
        return False
    return bool((labels == labels.astype(np.uint8)).all())
