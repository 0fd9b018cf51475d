"""Whether pictures and label maps of a data set are there, and what is instead."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmssm.openmmlab.data_checks.leaves import Parsed
from mmssm.openmmlab.data_checks.report import Report, some


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


def all_there(report: Report, folders: Folders, pairs: Sequence[Pair]) -> bool:
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


def check_orphans(report: Report, folders: Folders, parsed: Parsed) -> None:
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
