"""Checks of any dataset through what it parses: boxes, labels, masks, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmssm.openmmlab.data_checks.boxes import BEYOND, Box, is_number, sort_boxes
from mmssm.openmmlab.data_checks.coco import report_boxes
from mmssm.openmmlab.data_checks.leaves import Leaf, Parsed
from mmssm.openmmlab.data_checks.masks import REMEDIES, WORDS, mask_fault
from mmssm.openmmlab.data_checks.picture_files import Stated
from mmssm.openmmlab.data_checks.report import Report, counts, some


class Instance(NamedTuple):
    """One object of a picture as the dataset hands it to the pipeline."""

    name: str
    values: Mapping
    size: tuple[float, float] | None


def stated_pictures(entries: Sequence[Mapping]) -> list[Stated]:
    """The pictures of what a dataset has read."""
    return [
        Stated(entry['img_path'], _size(entry))
        for entry in entries
        if isinstance(entry.get('img_path'), str)
    ]


def check_instances(
    report: Report, leaf: Leaf, parsed: Parsed, classes: Sequence[str] | None
) -> None:
    """Boxes, labels and masks of every instance of a dataset.

    classes: None where the names are not known.
    """
    found = list(_instances(parsed.entries))
    if not found:
        return
    place = leaf.key
    unlike = [i.name for i in found if not isinstance(i.values, Mapping)]
    if unlike:
        report.error(
            f'{place}: instances that are no dicts: {some(unlike)}',
            'instances=[dict(bbox=[x1, y1, x2, y2], bbox_label=0), …]',
        )
        return
    boxes = [
        Box(f'{i.name}:', _plain(i.values['bbox']), i.size)
        for i in found
        if 'bbox' in i.values
    ]
    faults = dict(sort_boxes(boxes))
    beyond = faults.pop(BEYOND, ())
    report_boxes(report, place, faults, dropped=False)
    if beyond:
        report.warning(
            f'{place}: boxes that reach beyond their pictures: {some(beyond)}',
            'boxes are (x1, y1, x2, y2) in pixels; look at them',
        )
    _check_labels(report, place, found, classes)
    if any(step.get('with_mask') for step in leaf.settings.get('pipeline') or ()):
        _check_masks(report, place, found)


def check_left(report: Report, leaf: Leaf, parsed: Parsed) -> None:
    """Something is left for training or evaluation after the filter."""
    total, kept = len(parsed.entries), len(parsed.kept)
    if kept:
        return
    if not total:
        report.error(
            f'{leaf.key}: the annotations name no picture at all',
            'look at ann_file, data_prefix and the suffixes of the dataset',
        )
        return
    settings = leaf.settings.get('filter_cfg') or {}
    bare = sum(not entry.get('instances') for entry in parsed.entries)
    report.error(
        f'{leaf.key}: its filter_cfg {dict(settings)} leaves none of {total} pictures; '
        f'{bare} of them have no object of the classes',
        'compare metainfo.classes with the names in the annotations; '
        'filter_empty_gt=False keeps pictures without objects',
    )


def _instances(entries: Sequence[Mapping]) -> Iterator[Instance]:
    for entry in entries:
        file = entry.get('xml_path') or entry.get('img_path') or 'a picture'
        for number, values in enumerate(entry.get('instances') or ()):
            yield Instance(f'{file}, object {number}', values, _size(entry))


def _size(entry: Mapping) -> tuple[float, float] | None:
    size = entry.get('width'), entry.get('height')
    return size if all(map(is_number, size)) else None


def _plain(values: object) -> object:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _check_labels(
    report: Report,
    place: str,
    found: Sequence[Instance],
    classes: Sequence[str] | None,
) -> None:
    labelled = [i for i in found if 'bbox_label' in i.values]
    if classes is None or not labelled:
        return
    known = range(len(classes))
    strange = [
        f'{i.name}: {i.values["bbox_label"]!r}'
        for i in labelled
        if not is_number(i.values['bbox_label']) or i.values['bbox_label'] not in known
    ]
    if strange:
        report.error(
            f'{place}: labels outside of the {len(classes)} classes: {some(strange)}',
            'labels are 0, 1, 2, … in the order of metainfo.classes',
        )
        return
    number = Counter(int(i.values['bbox_label']) for i in labelled)
    report.fact(counts(classes, [number[label] for label in known]))
    absent = [classes[label] for label in known if not number[label]]
    if absent:
        report.warning(
            f'{place}: classes without a single object: {some(absent)}',
            'nothing can be learned or measured there; add objects or drop the class',
        )


def check_flags(report: Report, leaf: Leaf, parsed: Parsed) -> None:
    """Some object is left for training that does not count as a crowd."""
    flags = [
        bool(instance.values.get('ignore_flag'))
        for instance in _instances(parsed.entries)
        if isinstance(instance.values, Mapping)
    ]
    if flags and all(flags) and not leaf.settings.get('test_mode'):
        report.error(
            f'{leaf.key}: all {len(flags)} objects are to be ignored (ignore_flag: '
            'crowds, difficult or too small): nothing can be learned',
            'look at their flags in the annotations, and at filter_cfg',
        )


def _check_masks(report: Report, place: str, found: Sequence[Instance]) -> None:
    kinds: dict[str, list[str]] = {}
    for instance in found:
        kind = mask_fault(instance.values.get('mask'), instance.size)
        if kind:
            kinds.setdefault(kind, []).append(instance.name)
    for kind, names in kinds.items():
        report.error(
            f'{place}: {len(names)} of {len(found)} objects have {WORDS[kind]}: '
            f'{some(names)}',
            REMEDIES[kind],
        )
