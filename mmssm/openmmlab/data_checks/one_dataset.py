"""All that is checked of one dataset of a config."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks.coco import check_coco
from mmssm.openmmlab.data_checks.instances import (
    check_flags,
    check_instances,
    check_left,
    stated_pictures,
)
from mmssm.openmmlab.data_checks.label_maps import check_label_maps
from mmssm.openmmlab.data_checks.leaves import Leaf, Parsed, class_names, parse
from mmssm.openmmlab.data_checks.panoptic import check_panoptic
from mmssm.openmmlab.data_checks.picture_files import Stated, check_pictures
from mmssm.openmmlab.data_checks.pictures import loading
from mmssm.openmmlab.data_checks.report import Report, sample, some
from mmssm.openmmlab.data_checks.voc import check_voc


class Depth(NamedTuple):
    """How much to look at; None for all.

    samples: pictures and label maps of each dataset to open.  files: those to look for,
    and annotations in files of their own to read.  largest: annotation files of more
    bytes are passed over.  pipeline: send pictures through it, compare the splits.
    """

    samples: int | None = None
    files: int | None = None
    largest: int | None = None
    pipeline: bool = True


# for the start of a training: seconds, whatever the size of the data
QUICK = Depth(samples=60, files=5000, largest=60_000_000, pipeline=False)


class Seen:
    """What the datasets looked at so far have told.

    done: settings -> key of the dataset.  named: class names -> key.  pictures: loader
    -> paths.
    """

    def __init__(self) -> None:
        self.done: dict[str, str] = {}
        self.named: dict[tuple[str, ...], str] = {}
        self.pictures: dict[str, list[str]] = {}


def check_dataset(
    report: Report, cfg: Mapping, leaf: Leaf, depth: Depth, seen: Seen, readable: bool
) -> None:
    """One dataset: its own format first, then what it parses."""
    from mmssm.openmmlab.engine.agreement import in_channels

    before = report.errors
    names = None
    if _says_names(leaf) or not readable:
        names = class_names(report, leaf)
        if names is None:
            return
        _compare_names(report, cfg, leaf, names, seen)
    if not readable:
        return
    root = leaf.settings.get('data_root') or ''
    path = os.path.join(root, leaf.settings.get('ann_file') or '')
    if depth.largest and os.path.isfile(path) and os.path.getsize(path) > depth.largest:
        report.fact(f'{path} is large; mmssm-check-data CONFIG reads it')
        return
    stated = _check_format(report, leaf, names, depth)
    if stated is None:
        return
    segmentation = 'BaseSegDataset' in leaf.bases
    if report.errors > before and not segmentation:
        pictures = stated
    else:
        parsed = parse(report, leaf)
        if parsed is None:
            return
        if names is None and leaf.bases & {'BaseDetDataset', 'BaseSegDataset'}:
            names = class_names(report, leaf, parsed)
        if names is None and 'CustomDataset' in leaf.bases:
            _compare_folders(report, cfg, leaf, parsed, seen)
        pictures = _check_parsed(report, cfg, leaf, parsed, names, depth)
    loader = leaf.key.split('_')[0]
    paths = seen.pictures.setdefault(loader, [])
    if not segmentation:
        how = loading(leaf.settings.get('pipeline') or ())
        chosen = sample(pictures, depth.files)
        check_pictures(report, chosen, depth.samples, how, in_channels(cfg))
    paths += [stated.path for stated in pictures]


def _says_names(leaf: Leaf) -> bool:
    own = (leaf.settings.get('metainfo') or {}).get('classes')
    return bool(own or getattr(leaf.kind, 'METAINFO', {}).get('classes'))


def _compare_names(
    report: Report, cfg: Mapping, leaf: Leaf, names: tuple, seen: Seen
) -> None:
    """Classes of a dataset against those of others, then against the heads."""
    from mmssm.openmmlab.engine.classes import conflicts, named_classes

    others = {other: place for other, place in seen.named.items() if other != names}
    for other, place in others.items():
        report.error(
            f'other classes than {place}: {some(names)}; there {some(other)}',
            'the same names in the same order in every dataset',
        )
    seen.named.setdefault(names, leaf.key)
    named = named_classes(leaf.settings, leaf.key)
    if others or named is None:
        return
    for what, fix in conflicts(cfg, named):
        report.error(what, fix)


def _compare_folders(
    report: Report, cfg: Mapping, leaf: Leaf, parsed: Parsed, seen: Seen
) -> None:
    """Classes of mmpretrain that are folders against other datasets and the head."""
    from mmssm.openmmlab.engine.classes import Named, conflicts

    names = class_names(report, leaf, parsed)
    if names is None:
        return
    before = report.errors
    _compare_names(report, cfg, leaf, names, seen)
    if report.errors == before:
        for what, fix in conflicts(cfg, Named(leaf.key, names)):
            report.error(what, fix)


def _check_format(
    report: Report, leaf: Leaf, names: tuple | None, depth: Depth
) -> Sequence[Stated] | None:
    """Files of a known format by themselves; None: the dataset cannot read them."""
    if names is None:
        return []
    if 'CocoPanopticDataset' in leaf.bases:
        return check_panoptic(report, leaf, names, depth.samples)
    if 'CocoDataset' in leaf.bases:
        return check_coco(report, leaf, names)
    if leaf.reads_as('XMLDataset'):
        return [] if check_voc(report, leaf, names, depth.files) else None
    own = getattr(leaf.kind, 'METAINFO', {}).get('classes')
    strange = [name for name in names if own and name not in own]
    if 'BaseSegDataset' in leaf.bases and strange:
        report.error(
            f'{leaf.kind.__name__} has classes of its own, without {some(strange)}',
            "type='BaseSegDataset', which takes any classes",
        )
        return None
    return []


def _check_parsed(
    report: Report,
    cfg: Mapping,
    leaf: Leaf,
    parsed: Parsed,
    names: tuple | None,
    depth: Depth,
) -> list[Stated]:
    """What the dataset has read; returns its pictures."""
    from mmssm.openmmlab.engine.agreement import ignored_label, in_channels

    if 'BaseSegDataset' in leaf.bases:
        own = getattr(leaf.kind, 'METAINFO', {}).get('classes')
        # With a subset of the data set's classes, the files keep the full numbering.
        paths = check_label_maps(
            report,
            leaf,
            parsed,
            own or names or (),
            depth.samples,
            depth.files,
            in_channels(cfg),
            ignored_label(cfg),
        )
        return [Stated(path) for path in paths]
    check_left(report, leaf, parsed)
    check_flags(report, leaf, parsed)
    if not (leaf.reads_as('XMLDataset') or 'CocoDataset' in leaf.bases):
        check_instances(report, leaf, parsed, names)
    return stated_pictures(parsed.entries)
