"""Look at the data of a config before hours are spent on training with it.

    mmssm-check-data CONFIG [--cfg-options KEY=VALUE ...] [--all] [--skip-batch]

Any dataset is read through what it parses, wrapped ones included; files in the formats
of COCO (instances, LVIS, panoptic), Pascal VOC and label maps are looked at by
themselves before, so that each finding names the file and the way out.  Checked:
paths; the files' structure; classes of the config against categories or label values
and against the heads; boxes, masks, ids; pictures and label maps that cannot be read,
are turned by Exif or differ in size; classes and pictures without objects; the same
pictures in training and evaluation; the pipeline itself; and at last one batch through
data preprocessor, model and loss.  Existence is checked for every file, contents for an
even sample (--samples, --all).  Exit status 1 if there is an error, 0 if there are
warnings only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks.coco import check_coco
from mmssm.openmmlab.data_checks.instances import (
    check_instances,
    check_left,
    stated_pictures,
)
from mmssm.openmmlab.data_checks.label_maps import check_label_maps
from mmssm.openmmlab.data_checks.leaves import (
    Leaf,
    Parsed,
    class_names,
    first_lines,
    leaves,
    parse,
    quiet,
)
from mmssm.openmmlab.data_checks.panoptic import check_panoptic
from mmssm.openmmlab.data_checks.pictures import Stated, check_pictures, loading
from mmssm.openmmlab.data_checks.report import Report, sample, some
from mmssm.openmmlab.data_checks.voc import check_voc

LOADERS = ('train', 'val', 'test')


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


def check(
    cfg: Mapping,
    depth: Depth,
    report: Report | None = None,
    loaders: Sequence[str] = LOADERS,
) -> Report:
    """All checks of a config's data; prints what it finds unless the report is silent.

    Raises UserError for a dataset whose type is not registered.
    """
    from mmssm.openmmlab.engine.agreement import disagreements
    from mmssm.openmmlab.engine.paths import missing_paths

    report = Report() if report is None else report
    seen = Seen()
    conflicts = list(disagreements(cfg, loaders))
    if conflicts:
        report.heading('the config')
        for what, fix in conflicts:
            report.error(what, fix)
    for loader in loaders:
        if None in (cfg.get(f'{loader}_dataloader'), cfg.get(f'{loader}_cfg')):
            continue
        key = f'{loader}_dataloader.dataset'
        absent = missing_paths(cfg, [loader])
        dataset = cfg[f'{loader}_dataloader']['dataset']
        before = report.errors
        for leaf in leaves(dataset, key):
            report.heading(f'{leaf.key} ({leaf.kind.__name__})')
            if (text := str(leaf.settings)) in seen.done:
                report.fact(f'the same as {seen.done[text]}')
                continue
            seen.done[text] = leaf.key
            own = [p for p in absent if p[0].startswith((leaf.key, f'{loader}_eval'))]
            for place, path in own:
                report.error(
                    f'{place}: there is nothing at {path}',
                    f'correct it or data_root; relative paths start at {os.getcwd()}',
                )
            _check_evaluator(report, cfg, loader, leaf)
            _check_leaf(report, cfg, leaf, depth, seen, readable=not own)
        if report.errors == before and depth.pipeline:
            _try_pipeline(report, dataset, key)
    if depth.pipeline:
        _check_overlap(report, seen.pictures)
    return report


def _check_leaf(
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
    if 'CocoDataset' not in leaf.bases:
        check_instances(report, leaf, parsed, names)
    return stated_pictures(parsed.entries)


def _try_pipeline(report: Report, settings: Mapping, key: str) -> None:
    """Build a loader's dataset, wrappers and all, and load two of its pictures."""
    from mmengine.registry import DATASETS

    if 'dataset' in settings or 'datasets' in settings:
        report.heading(f'{key} ({settings.get("type")})')
    try:
        with quiet():
            dataset = DATASETS.build(settings)
            for index in sorted({0, len(dataset) // 2}):
                dataset[index]
    # Anything may go wrong in what the config names; the user gets to see what.
    except Exception as error:  # noqa: BLE001
        report.error(
            f'loading fails with {type(error).__name__}: {first_lines(error)}',
            'install the package that the message names'
            if isinstance(error, ImportError)
            else f'look at {key}.pipeline and the message above',
        )
        return
    report.fact(f'pipeline tried; {len(dataset)} pictures are used')


def _check_evaluator(report: Report, cfg: Mapping, loader: str, leaf: Leaf) -> None:
    evaluators = cfg.get(f'{loader}_evaluator') or ()
    used = leaf.settings.get('ann_file')
    path = used and os.path.join(leaf.settings.get('data_root') or '', used)
    for each in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        named = each.get('ann_file')
        if named and path and os.path.abspath(named) != os.path.abspath(path):
            report.error(
                f'{loader}_evaluator.ann_file is {named}, but the pictures come from '
                f'{path}: the metrics would be wrong',
                f'{loader}_evaluator.ann_file={path}',
            )


def _check_overlap(report: Report, seen: Mapping[str, Sequence[str]]) -> None:
    training = {os.path.realpath(path) for path in seen.get('train', ())}
    for loader in ('val', 'test'):
        shared = sorted(training & {os.path.realpath(p) for p in seen.get(loader, ())})
        if shared:
            report.heading(f'{loader} against train')
            report.warning(
                f'pictures of both: {some(shared)}',
                'metrics on pictures that were trained on say little: keep them apart',
            )


def run(cfg: Mapping, samples: int | None, batch: bool = True) -> int:
    """Check a config; prints what it finds, returns the exit status of the command.

    samples: how many files of each dataset to open, None for all.  batch: carry one
    batch of the training data through the model.
    """
    from mmengine.registry import init_default_scope

    from mmssm.openmmlab.data_checks.batch import check_batch

    init_default_scope(cfg.get('default_scope') or 'mmengine')
    report = check(cfg, Depth(samples))
    if batch and cfg.get('model') and cfg.get('train_dataloader'):
        report.heading('one batch through the model (on CPU; --skip-batch leaves it)')
        if report.errors:
            report.fact('not tried before the errors above are put right')
        else:
            check_batch(report, cfg)
    print(f'\n{report.errors} errors, {report.warnings} warnings')
    return 1 if report.errors else 0
