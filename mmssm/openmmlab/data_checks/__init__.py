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

from mmssm.openmmlab.data_checks.batch import check_batch
from mmssm.openmmlab.data_checks.leaves import Leaf, first_lines, leaves, quiet
from mmssm.openmmlab.data_checks.one_dataset import Depth, Seen, check_dataset
from mmssm.openmmlab.data_checks.report import Report, some

LOADERS = ('train', 'val', 'test')


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
            check_dataset(report, cfg, leaf, depth, seen, readable=not own)
        if report.errors == before and depth.pipeline:
            _try_pipeline(report, dataset, key)
    if depth.pipeline:
        _check_overlap(report, seen.pictures)
    return report


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
