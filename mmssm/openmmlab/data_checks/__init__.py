"""Look at the data of a config before hours are spent on training with it.

    mmssm-check-data CONFIG [--cfg-options KEY=VALUE ...] [--all]

For detection and instance segmentation in COCO's format, and for segmentation with
label maps as mmseg reads them. Checked: paths; the files' structure; classes of the
config against categories or label values; boxes, masks, ids; pictures and label maps
that cannot be read or whose sizes differ; classes and pictures without objects;
num_classes of the heads; the same pictures in training and evaluation; and at last the
pipeline itself. Existence is checked for every file, contents for an even sample
(--samples, --all). Exit status 1 if there is an error, 0 if there are warnings only.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks.instances import check_instances
from mmssm.openmmlab.data_checks.label_maps import check_label_maps
from mmssm.openmmlab.data_checks.report import Report, as_tuple, some

LOADERS = ('train', 'val', 'test')


class Leaf(NamedTuple):
    """A dataset of a config that reads files itself, not a wrapper around others."""

    key: str
    settings: Mapping
    kind: type


def leaves(settings: Mapping, key: str) -> Iterator[Leaf]:
    """The datasets inside of RepeatDataset, ConcatDataset and their like."""
    from mmengine.registry import DATASETS

    inner = settings.get('datasets') or ()
    if 'dataset' in settings:
        yield from leaves(settings['dataset'], f'{key}.dataset')
    elif inner:
        for index, part in enumerate(inner):
            yield from leaves(part, f'{key}.datasets[{index}]')
    else:
        kind = settings['type']
        with DATASETS.switch_scope_and_registry(None) as registry, _quiet():
            found = registry.get(kind) if isinstance(kind, str) else kind
        if found is None:
            raise SystemExit(
                f'{key}.type is {kind!r}, which is not registered: check the name, '
                'default_scope and custom_imports'
            )
        yield Leaf(key, settings, found)


def _quiet() -> contextlib.AbstractContextManager:
    """Without what the libraries print while they are imported and read files."""
    return contextlib.redirect_stdout(io.StringIO())


def heads(node: object, key: str = 'model') -> Iterator[tuple[str, int]]:
    """(config key, num_classes) of every head that tells classes apart."""
    if isinstance(node, Mapping):
        for name, part in node.items():
            if name == 'num_classes' and isinstance(part, int):
                yield f'{key}.num_classes', part
            elif name != 'rpn_head':
                yield from heads(part, f'{key}.{name}')
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, part in enumerate(node):
            yield from heads(part, f'{key}[{index}]')


def class_names(report: Report, leaf: Leaf) -> tuple[str, ...] | None:
    """What the config calls the classes; None when it does not say."""
    own = (leaf.settings.get('metainfo') or {}).get('classes')
    names = own or getattr(leaf.kind, 'METAINFO', {}).get('classes')
    if isinstance(names, str) and os.path.isfile(names):
        with open(names, encoding='utf-8') as file:
            names = file.read().splitlines()
    if isinstance(names, str):
        report.error(
            f'metainfo.classes is the text {names!r}, not a tuple of names (and there '
            'is no such file)',
            f'write {as_tuple([names])}, with the comma',
        )
        return None
    if not names:
        report.error(
            'the config does not name the classes',
            "metainfo=dict(classes=('first', 'second')) in every dataset",
        )
        return None
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        report.error(f'class names that occur twice: {some(twice)}', 'rename them')
    return tuple(names)


def check_heads(report: Report, cfg: Mapping, names: Sequence[str]) -> None:
    for key, number in heads(cfg.get('model')):
        if number != len(names):
            report.error(
                f'{key} is {number}, but the data has {len(names)} classes',
                f'{key}={len(names)}; a background counts in segmentation if it is '
                'one of the classes, and never in detection',
            )


def _defaults(kind: type) -> dict:
    """Default arguments of a dataset class and of those it builds upon."""
    found: dict = {}
    for base in reversed(kind.__mro__):
        if '__init__' in vars(base):
            for name, parameter in inspect.signature(base.__init__).parameters.items():
                if parameter.default is not inspect.Parameter.empty:
                    found[name] = parameter.default
    return found


def check_leaf(report: Report, leaf: Leaf, names: tuple, samples: int | None) -> list:
    """The checks for the kind of data; returns the paths of the pictures."""
    bases = {base.__name__ for base in leaf.kind.__mro__}
    if 'CocoDataset' in bases:
        return check_instances(report, leaf.settings, names, samples)
    if 'BaseSegDataset' in bases:
        own = leaf.kind.METAINFO.get('classes')
        strange = [name for name in names if own and name not in own]
        if strange:
            report.error(
                f'{leaf.kind.__name__} has classes of its own, without {some(strange)}',
                "type='BaseSegDataset', which takes any classes",
            )
            return []
        # With a subset of the data set's classes, the files keep the full numbering.
        defaults = _defaults(leaf.kind)
        return check_label_maps(report, leaf.settings, own or names, defaults, samples)
    report.warning(
        f'{leaf.kind.__name__} is no CocoDataset and no BaseSegDataset',
        'nothing to put right; only the pipeline is tried',
    )
    return []


def try_pipeline(report: Report, leaf: Leaf) -> None:
    """Build the dataset and send its first and its middle picture through."""
    from mmengine.registry import DATASETS

    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            dataset = DATASETS.build(leaf.settings)
            for index in {0, len(dataset) // 2}:
                dataset[index]
    # Anything may go wrong in what the config names; the user gets to see what.
    except Exception as error:  # noqa: BLE001
        report.error(
            f'loading fails with {type(error).__name__}: {error}',
            f'look at {leaf.key}.pipeline and the message above',
        )
        return
    report.fact(f'pipeline tried; {len(dataset)} pictures are used')


def check_evaluator(report: Report, cfg: Mapping, loader: str, leaf: Leaf) -> None:
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


def check(cfg: Mapping, samples: int | None) -> Report:
    """All checks of a config; prints what it finds."""
    from mmssm.openmmlab.engine.paths import missing_paths

    report = Report()
    seen: dict[str, list[str]] = {}
    done: dict[str, str] = {}
    named: dict[tuple[str, ...], str] = {}
    for loader in LOADERS:
        if None in (cfg.get(f'{loader}_dataloader'), cfg.get(f'{loader}_cfg')):
            continue
        key = f'{loader}_dataloader.dataset'
        absent = missing_paths(cfg, [loader])
        for leaf in leaves(cfg[f'{loader}_dataloader']['dataset'], key):
            report.heading(f'{leaf.key} ({leaf.kind.__name__})')
            if (text := str(leaf.settings)) in done:
                report.fact(f'the same as {done[text]}')
                continue
            done[text] = leaf.key
            before = report.errors
            for place, path in absent:
                if place.startswith((leaf.key, f'{loader}_evaluator')):
                    report.error(
                        f'{place}: there is nothing at {path}',
                        'correct it or data_root; relative paths start at '
                        f'{os.getcwd()}',
                    )
            if (names := class_names(report, leaf)) is None:
                continue
            for other, place in named.items():
                if other != names:
                    report.error(
                        f'other classes than {place}: {some(names)}; there '
                        f'{some(other)}',
                        'the same names in the same order in every dataset',
                    )
            named.setdefault(names, leaf.key)
            check_heads(report, cfg, names)
            check_evaluator(report, cfg, loader, leaf)
            if not absent:
                seen.setdefault(loader, []).extend(
                    check_leaf(report, leaf, names, samples)
                )
            if report.errors == before:
                try_pipeline(report, leaf)
    _check_overlap(report, seen)
    return report


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


def run(cfg: Mapping, samples: int | None) -> int:
    """Check a config; prints what it finds, returns the exit status of the command.

    samples: how many files of each dataset to open, None for all.
    """
    from mmengine.registry import init_default_scope

    init_default_scope(cfg.get('default_scope') or 'mmengine')
    report = check(cfg, samples)
    print(f'\n{report.errors} errors, {report.warnings} warnings')
    return 1 if report.errors else 0
