"""Checks of a data set of pictures and label maps, as mmseg reads them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmssm.openmmlab.data_checks.label_values import Values, check_values
from mmssm.openmmlab.data_checks.leaves import Leaf, Parsed
from mmssm.openmmlab.data_checks.pictures import (
    Loading,
    Picture,
    check_contents,
    is_ambiguous,
    loading,
    read_label_map,
    read_picture,
    report_turned,
    report_unreadable,
)
from mmssm.openmmlab.data_checks.report import Report, sample, some


class Pair(NamedTuple):
    picture: str
    labels: str


class Folders(NamedTuple):
    """Where a BaseSegDataset looks.

    listed: the file with the names of pictures, '' for all of the folder.
    """

    pictures: str
    maps: str | None
    listed: str
    suffix: str
    map_suffix: str


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
    if not _all_there(report, folders, pairs):
        return pictures
    if folders.map_suffix.lower() in ('.jpg', '.jpeg'):
        report.error(
            f'label maps are {folders.map_suffix} files: JPEG changes the values of '
            'pixels',
            'make the label maps again as PNG and set seg_map_suffix',
        )
        return pictures
    _check_orphans(report, folders, parsed)
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


def folders_of(dataset: object) -> Folders:
    prefix = getattr(dataset, 'data_prefix', None) or {}
    listed = getattr(dataset, 'ann_file', '') or ''
    return Folders(
        prefix.get('img_path') or '',
        prefix.get('seg_map_path'),
        listed if listed and not os.path.isdir(listed) else '',
        getattr(dataset, 'img_suffix', '.jpg'),
        getattr(dataset, 'seg_map_suffix', '.png'),
    )


def explain_empty(report: Report, folders: Folders) -> None:
    """No picture was found: what is there instead."""
    if folders.listed:
        report.error(
            f'{folders.listed} is empty',
            'a text file with the name of one picture, without suffix, a line',
        )
        return
    folder, suffix = Path(folders.pictures), folders.suffix
    others = Counter(path.suffix for path in folder.rglob('*') if path.is_file())
    there = ', '.join(f'{number} *{end}' for end, number in others.most_common(3))
    likely = [end for end in others if end.lower() == str(suffix).lower()]
    likely = likely or [end for end, _ in others.most_common(1)]
    report.error(
        f'{folder} has no file that ends in {suffix!r}; it has {there or "no files"}',
        (f'img_suffix={likely[0]!r}' if likely else 'fetch the pictures')
        + ', or correct data_prefix.img_path',
    )


def _all_there(report: Report, folders: Folders, pairs: Sequence[Pair]) -> bool:
    missing = [pair.picture for pair in pairs if not os.path.isfile(pair.picture)]
    unlabelled = [pair.labels for pair in pairs if not os.path.isfile(pair.labels)]
    if missing and folders.listed:
        _explain_list(report, folders, missing, len(pairs))
    elif missing:
        report.error(
            f'{len(missing)} of {len(pairs)} pictures do not exist: {some(missing)}',
            'correct data_prefix.img_path or img_suffix',
        )
    if unlabelled and not missing:
        _explain_unlabelled(report, folders, unlabelled, len(pairs))
    return not missing and not unlabelled


def _explain_list(
    report: Report, folders: Folders, missing: Sequence[str], total: int
) -> None:
    """Names of a list that are no pictures: empty, with suffix, or of others."""
    names = [
        os.path.relpath(path, folders.pictures).removesuffix(folders.suffix)
        for path in missing
    ]
    empty = [name for name in names if name in ('', '.')]
    suffixed = [n for n in names if os.path.isfile(os.path.join(folders.pictures, n))]
    if empty:
        fix = f'take the empty lines ({len(empty)}) out of {folders.listed}'
    elif suffixed:
        fix = (
            f'{folders.listed} lists names with suffix, such as {suffixed[0]!r}: list '
            f'{os.path.splitext(suffixed[0])[0]!r}; img_suffix is added to each'
        )
    else:
        fix = (
            f'{folders.listed} lists names without suffix; correct it, '
            'data_prefix.img_path or img_suffix'
        )
    report.error(
        f'{len(missing)} of {total} pictures of {folders.listed} do not exist: '
        f'{some(missing)}',
        fix,
    )


def _explain_unlabelled(
    report: Report, folders: Folders, unlabelled: Sequence[str], total: int
) -> None:
    folder, name = os.path.split(unlabelled[0])
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    stem = name.removesuffix(folders.map_suffix)
    alike = [n for n in there if n.startswith(stem) and is_ending(n[len(stem) :])]
    if alike and len(unlabelled) == total:
        fix = f'there is {alike[0]}: seg_map_suffix={alike[0].removeprefix(stem)!r}'
    elif len(unlabelled) < total:
        fix = 'fetch or make them, or take their pictures out of the set'
    else:
        fix = f'name them as the pictures; {folder} holds {some(there) or "no files"}'
    report.error(
        f'{len(unlabelled)} of {total} pictures have no label map: {some(unlabelled)}',
        fix,
    )


def _check_orphans(report: Report, folders: Folders, parsed: Parsed) -> None:
    """Label maps of a folder whose pictures are not there."""
    if folders.listed or not os.path.isdir(folders.maps or ''):
        return
    used = {os.path.normpath(e.get('seg_map_path') or '') for e in parsed.entries}
    there = sorted(map(str, Path(folders.maps).rglob(f'*{folders.map_suffix}')))
    orphans = [path for path in there if os.path.normpath(path) not in used]
    if orphans:
        report.warning(
            f'{len(orphans)} label maps have no picture in {folders.pictures}: '
            f'{some(orphans)}',
            'fetch the pictures, or look at img_suffix',
        )


def is_ending(text: str) -> bool:
    """'.png' and '_labels.png' end a name; '0.png' makes another one of it."""
    return '.' in text and not text[0].isalnum()


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
