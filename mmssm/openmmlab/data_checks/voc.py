"""Checks of the XML files of a data set in Pascal VOC's format."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from mmssm.openmmlab.data_checks.boxes import BEYOND, EMPTY, Box, sort_boxes
from mmssm.openmmlab.data_checks.coco import report_boxes
from mmssm.openmmlab.data_checks.leaves import Leaf, quiet
from mmssm.openmmlab.data_checks.report import Report, counts, sample, similar, some

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
EXPECTED = (
    '<annotation><size><width>…</width><height>…</height></size><object><name>…</name>'
    '<bndbox><xmin>…</xmin><ymin>…</ymin><xmax>…</xmax><ymax>…</ymax></bndbox></object>'
    '</annotation>'
)


class Objects(NamedTuple):
    """Boxes and names of all files, and how many boxes are of no class."""

    boxes: list[Box]
    names: Counter
    difficult: Counter


def check_voc(
    report: Report, leaf: Leaf, classes: Sequence[str], files: int | None
) -> bool:
    """Check the annotations of an XMLDataset.

    files: how many of them to read, None for all.
    Returns whether all of them were read and the dataset can read them, too.
    """
    from mmengine.registry import DATASETS

    with quiet():
        settings = dict(leaf.settings, lazy_init=True, pipeline=[])
        dataset = DATASETS.build(settings)
    names = _listed(report, dataset.ann_file)
    if names is None:
        return False
    folder = os.path.join(dataset.sub_data_root, dataset.ann_subdir)
    paths = [os.path.join(folder, f'{name}.xml') for name in sample(names, files)]
    report.fact(f'{dataset.ann_file}: {len(names)} pictures; annotations in {folder}')
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        report.error(
            f'{len(missing)} of {len(paths)} annotations do not exist: {some(missing)}',
            f'{dataset.ann_file} lists names without suffix, one a line, no empty line;'
            ' correct it, data_prefix.sub_data_root or ann_subdir',
        )
        return False
    return check_files(report, paths, classes) and len(paths) == len(names)


def _listed(report: Report, path: str) -> list[str] | None:
    try:
        with open(path, encoding='utf-8') as file:
            return [line.rstrip('\r\n') for line in file]
    except (OSError, ValueError) as error:
        report.error(
            f'{path} is not readable as a list of names: {error}',
            'a text file in UTF-8 with the name of one picture, without suffix, a line',
        )
        return None


def check_files(report: Report, paths: Sequence[str], classes: Sequence[str]) -> bool:
    """Check XML files by themselves; whether the dataset can read all of them."""
    found = Objects([], Counter(), Counter())
    malformed = []
    for path in paths:
        try:
            _read(path, classes, found)
        except (ElementTree.ParseError, OSError, ValueError) as error:
            malformed.append(f'{path} ({error})')
    if malformed:
        report.error(
            f'{len(malformed)} of {len(paths)} annotations are malformed: '
            f'{some(malformed)}',
            f'correct or remove them; expected {EXPECTED}',
        )
    sorted_boxes = sort_boxes(found.boxes)
    report_boxes(report, 'XML', sorted_boxes, dropped=False)
    if sorted_boxes.get(BEYOND):
        report.warning(
            f'boxes that reach beyond their pictures: {some(sorted_boxes[BEYOND])}',
            'correct them, or <size> in these files',
        )
    _check_names(report, found, classes)
    return not malformed and not sorted_boxes.get(EMPTY)


def _read(path: str, classes: Sequence[str], found: Objects) -> None:
    """Add the objects of a file. Raises ValueError for what the dataset stops at."""
    root = ElementTree.parse(path).getroot()
    size = root.find('size')
    if size is not None:
        size = tuple(_whole(size, name) for name in ('width', 'height'))
        if min(size) < 1:
            raise ValueError(f'<size> is {size[0]} x {size[1]}')
    for number, entry in enumerate(root.findall('object')):
        name = entry.findtext('name')
        if name is None:
            raise ValueError(f'object {number} has no <name>')
        found.names[name] += 1
        if name not in classes:
            continue
        if entry.find('difficult') is not None:
            found.difficult[name] += bool(_whole(entry, 'difficult'))
        box = entry.find('bndbox')
        if box is None:
            raise ValueError(f'object {number} has no <bndbox>')
        corners = [_number(box, corner) for corner in CORNERS]
        # the dataset cuts fractions and counts pixels from 0
        whole = [int(c) - 1 if math.isfinite(c) else c for c in corners]
        found.boxes.append(Box(f'{path}, object {number}:', whole, size))


def _number(node: ElementTree.Element, name: str) -> float:
    text = node.findtext(name)
    try:
        return float(text)
    except (TypeError, ValueError):
        raise ValueError(f'<{name}> is {text!r}, not a number') from None


def _whole(node: ElementTree.Element, name: str) -> int:
    text = node.findtext(name)
    try:
        return int(text)
    except (TypeError, ValueError):
        raise ValueError(f'<{name}> is {text!r}, not an integer') from None


def _check_names(report: Report, found: Objects, classes: Sequence[str]) -> None:
    known: Mapping[str, int] = {name: found.names[name] for name in classes}
    report.fact(counts(list(known), list(known.values())))
    strange = [name for name in found.names if name not in classes]
    if not any(known.values()):
        report.error(
            f'no object is of one of the classes {some(classes)}; the files have '
            f'{some(sorted(strange)) or "no objects"}',
            'write the names of the files in metainfo.classes',
        )
        return
    if strange:
        meant = {n: similar(n, classes) for n in strange}
        close = [f'{n!r} for {m!r}' for n, m in meant.items() if m]
        report.warning(
            f'names that are no class, whose objects are left out: '
            f'{some([f"{n} ({found.names[n]})" for n in sorted(strange)])}',
            f'a slip of the pen? {some(close)}'
            if close
            else 'add them to metainfo.classes, unless you mean it',
        )
    if sum(found.difficult.values()) == len(found.boxes):
        report.error(
            f'all {len(found.boxes)} objects are <difficult>1</difficult>, which '
            'training ignores: nothing can be learned',
            'write 0 for ordinary objects',
        )
    absent = [name for name, number in known.items() if number == 0]
    if absent:
        report.warning(
            f'classes without a single object: {some(absent)}',
            'nothing can be learned or measured there; add objects or drop the class',
        )
