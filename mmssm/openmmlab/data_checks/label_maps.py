"""Checks of a data set of pictures and label maps, as mmseg reads them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmssm.openmmlab.data_checks.pictures import read_label_map, read_picture
from mmssm.openmmlab.data_checks.report import Report, counts, sample, some

# What mmseg's BaseSegDataset assumes; its subclasses have defaults of their own.
DEFAULTS = dict(
    img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=False, ignore_index=255
)


def check_label_maps(
    report: Report,
    dataset: Mapping,
    classes: Sequence[str],
    defaults: Mapping,
    samples: int | None,
) -> list[str]:
    """Check one segmentation data set of a config; returns the paths of its pictures.

    classes: those of metainfo, or the data set's own. defaults: of the data set's
    constructor. samples: how many pairs to open, None for all.
    """
    settings = {**DEFAULTS, **defaults, **dataset}
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    folder = Path(root, prefix.get('img_path', ''))
    maps = Path(root, prefix.get('seg_map_path', ''))
    names = list(_names(settings, root, folder))
    suffix, map_suffix = settings['img_suffix'], settings['seg_map_suffix']
    pictures = [str(folder / f'{name}{suffix}') for name in names]
    if not names:
        _explain_empty(report, folder, suffix)
        return []
    report.fact(f'{folder}: {len(names)} pictures; label maps in {maps}')
    missing = [p for p in pictures if not os.path.isfile(p)]
    unlabelled = [n for n in names if not (maps / f'{n}{map_suffix}').is_file()]
    if missing:
        report.error(
            f'{len(missing)} of {len(names)} pictures do not exist: {some(missing)}',
            'ann_file lists names without suffix; correct it, data_prefix.img_path or '
            'img_suffix',
        )
    if unlabelled:
        _explain_unlabelled(report, maps, map_suffix, unlabelled, len(names))
    if missing or unlabelled:
        return pictures
    if map_suffix.lower() in ('.jpg', '.jpeg'):
        report.error(
            f'label maps are {map_suffix} files: JPEG changes the values of pixels',
            'make the label maps again as PNG and set seg_map_suffix',
        )
        return pictures
    pairs = [
        (folder / f'{name}{suffix}', maps / f'{name}{map_suffix}')
        for name in sample(names, samples)
    ]
    _check_loading(report, settings)
    _check_pairs(report, pairs, settings, classes)
    report.fact(f'{len(pairs)} of {len(names)} pairs opened')
    return pictures


def _names(settings: Mapping, root: str, folder: Path) -> Iterator[str]:
    """Names relative to the folder, without suffix."""
    listed = settings.get('ann_file') and os.path.join(root, settings['ann_file'])
    if listed and not os.path.isdir(listed):
        lines = Path(listed).read_text().splitlines()
        yield from (line.strip() for line in lines)
        return
    suffix = settings['img_suffix']
    for path in sorted(folder.rglob('*')):
        if path.name.endswith(suffix) and not path.name.startswith('.'):
            yield str(path.relative_to(folder)).removesuffix(suffix)


def _explain_empty(report: Report, folder: Path, suffix: str) -> None:
    others = Counter(path.suffix for path in folder.rglob('*') if path.is_file())
    there = ', '.join(f'{number} *{end}' for end, number in others.most_common(3))
    report.error(
        f'{folder} has no file that ends in {suffix!r}; it has {there or "no files"}',
        "set img_suffix to the pictures' ending, or correct data_prefix.img_path",
    )


def _explain_unlabelled(
    report: Report, maps: Path, suffix: str, unlabelled: Sequence[str], total: int
) -> None:
    there = sorted(path.name for path in maps.iterdir())
    first = unlabelled[0].split('/')[-1]
    alike = [name for name in there if name.startswith(first)]
    if alike:
        fix = f'there is {alike[0]}: seg_map_suffix={alike[0].removeprefix(first)!r}'
    else:
        fix = f'name them as the pictures; the folder holds {some(there) or "no files"}'
    report.error(
        f'{len(unlabelled)} of {total} pictures have no label map: '
        f'{some([str(maps / f"{name}{suffix}") for name in unlabelled])}',
        fix,
    )


def _check_loading(report: Report, settings: Mapping) -> None:
    for step in settings.get('pipeline') or ():
        own = step.get('reduce_zero_label')
        if own is not None and own != settings['reduce_zero_label']:
            report.error(
                f'LoadAnnotations has reduce_zero_label={own}, the dataset '
                f'{settings["reduce_zero_label"]}; mmseg stops at the first picture',
                'set reduce_zero_label in the dataset only',
            )


def _check_pairs(
    report: Report,
    pairs: Sequence[tuple[Path, Path]],
    settings: Mapping,
    classes: Sequence[str],
) -> None:
    broken, coloured, sizes, wide = [], [], [], []
    pixels, files = Counter(), Counter()
    for picture_path, map_path in pairs:
        picture, labels = read_picture(picture_path), read_label_map(map_path)
        broken += [found for found in (picture, labels) if isinstance(found, str)]
        if isinstance(picture, str) or isinstance(labels, str):
            continue
        if labels.squeeze().ndim != 2:
            coloured.append(map_path)
            continue
        labels = labels.squeeze()
        if picture.size != labels.shape[::-1]:
            sizes.append(f'{picture_path} {picture.size}, map {labels.shape[::-1]}')
        if labels.max() > 255:
            wide.append(map_path)
        values, numbers = np.unique(labels, return_counts=True)
        pixels.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        files.update(values.tolist())
    if broken:
        report.error(f'unreadable: {some(broken)}', 'copy these files again')
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
        report.error(
            f'label maps with values above 255, of which mmseg keeps the low 8 bits: '
            f'{some(wide)}',
            'convert them to 8 bits with one number per class',
        )
    elif pixels:
        _check_values(report, pixels, files, settings, classes)


def _check_values(
    report: Report,
    pixels: Counter,
    files: Counter,
    settings: Mapping,
    classes: Sequence[str],
) -> None:
    """Values of the files against the classes; pixels and files count each value."""
    reduce, ignored = settings['reduce_zero_label'], settings['ignore_index']
    first = 1 if reduce else 0
    expected = range(first, first + len(classes))
    unlabelled = {ignored, 0} if reduce else {ignored}
    strange = sorted(set(pixels) - set(expected) - unlabelled)
    report.fact(f'values {_ranges(sorted(pixels))}; expected {_span(expected)}')
    if strange:
        _explain_strange(report, strange, files, pixels, expected, reduce)
    elif reduce and expected[-1] not in pixels and files[0] > sum(files.values()) / 10:
        report.warning(
            f'reduce_zero_label=True ignores value 0, which is in {files[0]} maps, and '
            f'value {expected[-1]} ({classes[-1]!r}) never occurs',
            'if 0 is a class, reduce_zero_label=False',
        )
    known = [value for value in expected if value in pixels]
    total = sum(pixels.values())
    share = [round(100 * pixels[value] / total, 1) for value in known]
    report.fact('% of pixels: ' + counts([classes[v - first] for v in known], share))
    absent = [classes[v - first] for v in expected if v not in pixels]
    if absent and not strange:
        report.warning(
            f'classes that none of the opened maps has: {some(absent)}',
            'open all of them (--all); if it stays so, drop the classes or look for an '
            'offset in the values',
        )
    if not known:
        report.error('no opened label map has a labelled pixel', 'see the values above')


def _explain_strange(
    report: Report,
    strange: Sequence[int],
    files: Counter,
    pixels: Counter,
    expected: range,
    reduce: bool,
) -> None:
    what = (
        f'values outside of the {len(expected)} classes: {_ranges(strange)}, in up to '
        f'{max(files[value] for value in strange)} maps; training stops there or, on a '
        'GPU, dies with a device-side assert'
    )
    if not reduce and strange == [len(expected)] and not pixels[0]:
        fix = 'the values begin at 1: reduce_zero_label=True'
    elif not reduce and strange == [len(expected)]:
        fix = (
            f'there are {len(expected) + 1} values: if 0 means unlabelled, '
            'reduce_zero_label=True; if it is a class such as background, name it '
            'first in metainfo.classes and raise num_classes'
        )
    else:
        fix = (
            'name every class in metainfo.classes, or convert the maps: 0, 1, 2, … in '
            'the order of the classes, 255 for what is not to count'
        )
    report.error(what, fix)


def _ranges(values: Sequence[int]) -> str:
    """'0-3, 7, 255' for sorted values."""
    groups: list[list[int]] = []
    for value in values:
        if groups and value == groups[-1][-1] + 1:
            groups[-1].append(value)
        else:
            groups.append([value])
    return ', '.join(str(g[0]) if len(g) == 1 else f'{g[0]}-{g[-1]}' for g in groups)


def _span(expected: range) -> str:
    return f'{expected[0]}-{expected[-1]}'
