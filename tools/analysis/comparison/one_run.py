"""One run of a comparison: train, evaluate the last checkpoint, write what came out.

    python -m tools.analysis.comparison.one_run FOLDER [flags of mmssm-train]

FOLDER holds config.py; a training that is in it already goes on from its checkpoint.
"""

import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config

from mmssm.openmmlab.cli import test, train
from mmssm.openmmlab.commands.flops import build
from mmssm.openmmlab.engine.loading import read_checkpoint
from mmssm.openmmlab.engine.resuming import latest_checkpoint
from mmssm.openmmlab.reporting.curves import read_run
from tools.benchmarks.measure import machine, revision
from tools.demo.results import ROOT, sources, versions, write_json

# name in the results of mmdet and mmseg: name in the table, and what is one
NAMES = {
    'coco/bbox_mAP': ('box AP', 1.0),
    'coco/segm_mAP': ('mask AP', 1.0),
    'coco_panoptic/PQ': ('PQ', 100.0),
    'pascal_voc/mAP': ('mAP', 1.0),
    'mIoU': ('mIoU', 100.0),
    'mDice': ('mDice', 100.0),
    'mFscore': ('mFscore', 100.0),
}


def main_metrics(
    evaluators: Mapping | Sequence[Mapping], found: Mapping[str, float]
) -> dict[str, float]:
    """The metrics of the table, as fractions; all that there are, where none is known.

    mmdet reports nothing where nothing was detected; that is an AP of zero.
    """
    if isinstance(evaluators, Mapping):
        evaluators = [evaluators]
    found = dict(found)
    for evaluator in evaluators:
        if str(evaluator.get('type')).split('.')[-1] == 'CocoMetric':
            kinds = evaluator.get('metric', 'bbox')
            for kind in [kinds] if isinstance(kinds, str) else kinds:
                found.setdefault(f'coco/{kind}_mAP', 0.0)
    known = [key for key in NAMES if key in found]
    if not known:
        return {key: float(value) for key, value in found.items()}
    return {NAMES[key][0]: found[key] / NAMES[key][1] for key in known}


def made_with() -> dict[str, object]:
    """What else results follow from: sources, packages, the machine."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return {
        **machine(device),
        'packages': versions(),
        'sources': sources(),
        'commit': revision(ROOT),
    }


def result(folder: Path, checkpoint: str) -> dict[str, object]:
    """What the training and the evaluation in a folder came to."""
    cfg = Config.fromfile(folder / 'config.py')
    (tested,) = folder.glob('test/*/*.json')
    iterations = read_checkpoint(checkpoint)['meta']['iter']
    seconds = read_run(folder / 'train').training['time'].values
    whole = build(cfg, None)[0].model
    return dict(
        metrics=main_metrics(cfg.test_evaluator, json.loads(tested.read_text())),
        iterations=iterations,
        parameters=sum(p.numel() for p in whole.parameters()),
        backbone_parameters=sum(p.numel() for p in whole.backbone.parameters()),
        training_seconds=iterations * statistics.fmean(seconds),
        made_with=made_with(),
    )


def main(folder: Path, flags: Sequence[str]) -> None:
    """See the description of the module."""
    config = str(folder / 'config.py')
    train([config, f'--work-dir={folder}/train', '--resume', *flags])
    checkpoint, _ = latest_checkpoint(folder / 'train')
    shutil.rmtree(folder / 'test', ignore_errors=True)
    test([config, checkpoint, f'--work-dir={folder}/test'])
    write_json(folder / 'result.json', result(folder, checkpoint))


if __name__ == '__main__':
    main(Path(sys.argv[1]), sys.argv[2:])
