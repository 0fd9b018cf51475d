"""The steps of a batch, and what is said when one of them fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from mmssm.openmmlab.data_checks.leaves import first_lines, quiet
from mmssm.openmmlab.data_checks.report import Report

FIXES = (
    # what the message says, and the way out
    (
        'only one of size and size_divisor',
        'data_preprocessor=dict(size=CROP_SIZE) or size_divisor=32, not both',
    ),
    (
        'is invalid for input of size',
        'look at in_channels of the heads against what the backbone gives',
    ),
    (
        'mat1 and mat2 shapes',
        'look at in_channels of the heads against what the backbone gives',
    ),
    (
        'channels',
        'in_channels of the neck and the heads must be what the backbone gives at each '
        'level, in_channels of the backbone what the pictures have',
    ),
    (
        'more than 1 value per channel',
        'batch norm needs two pictures: train_dataloader.batch_size=2, or norm_cfg='
        "dict(type='GN', num_groups=32)",
    ),
    ("'gt_masks'", 'LoadAnnotations(with_mask=True), or a model without mask head'),
    ("'masks'", 'LoadAnnotations(with_mask=True), or a model without mask head'),
    ("'gt_sem_seg'", 'LoadAnnotations (with_seg=True in mmdet) in train_pipeline'),
    ("'bboxes'", 'LoadAnnotations(with_bbox=True) in train_pipeline'),
)


class Stage(NamedTuple):
    """A step of the batch; what to look at when it fails."""

    name: str
    look: str


LOADING = Stage('loading the batch', 'look at train_dataloader and its pipeline')
BUILDING = Stage('building the model', 'look at model in the config')
PREPARING = Stage(
    'model.data_preprocessor', 'look at model.data_preprocessor and train_pipeline'
)
LOSS = Stage('the loss', 'look at the heads of the model against the data')


class Failed(Exception):
    """A step that failed; its finding is in the report."""


@contextlib.contextmanager
def reporting(report: Report, stage: Stage) -> Iterator[None]:
    """Turn an exception into a finding of the report and into Failed."""
    try:
        with quiet():
            yield
    # Anything may go wrong in what the config names; the user gets to see what.
    except Exception as error:
        text = first_lines(error)
        fix = next((fix for words, fix in FIXES if words in text), stage.look)
        report.error(f'{stage.name} fails with {type(error).__name__}: {text}', fix)
        raise Failed from error
