"""One batch of a config through its pipeline, data preprocessor, model and loss."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import torch

from mmssm.openmmlab.data_checks.batch_contents import (
    check_channels,
    check_labels,
    check_losses,
    check_shapes,
)
from mmssm.openmmlab.data_checks.batch_steps import (
    BUILDING,
    LOADING,
    LOSS,
    PREPARING,
    Failed,
    reporting,
)
from mmssm.openmmlab.data_checks.report import Report, some


def check_batch(report: Report, cfg: Mapping) -> None:
    """Report what goes wrong before the first step of a training.

    Pretrained weights are not loaded.  Labels, channels and sizes of the batch are
    compared with what heads, backbone and preprocessor expect before they meet.
    """
    began = time.monotonic()
    try:
        _try_batch(report, copy.deepcopy(cfg))
    except Failed:
        return
    report.fact(f'{time.monotonic() - began:.1f} s')


def _try_batch(report: Report, cfg: Mapping) -> None:
    from mmengine.model.utils import revert_sync_batchnorm
    from mmengine.registry import MODELS
    from mmengine.runner import Runner

    loader = cfg['train_dataloader']
    loader.update(num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    forget_pretrained(cfg['model'])
    with reporting(report, LOADING):
        built = Runner.build_dataloader(loader, seed=0)
        batch = next(iter(built), None)
    if batch is None:
        report.error(
            f'{len(built.dataset)} pictures give no batch of {loader.get("batch_size")}'
            ' (drop_last)',
            'train_dataloader.batch_size=1, or drop_last=False',
        )
        return
    if 'inputs' not in batch:
        report.error(
            f'the pipeline gives no inputs, but {some(sorted(batch))}',
            'it must end in PackDetInputs (mmdet) or PackSegInputs (mmseg)',
        )
        return
    check_shapes(report, cfg, built.dataset, built.batch_size or 1)
    with reporting(report, BUILDING):
        model = revert_sync_batchnorm(MODELS.build(cfg['model']))
        model.init_weights()
        model.train()
    if check_channels(report, cfg, batch):
        return
    with reporting(report, PREPARING):
        data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    if check_labels(report, model, data):
        return
    with reporting(report, LOSS), torch.no_grad():
        losses = model(**data, mode='loss')
        model.parse_losses(losses)
    check_losses(report, losses, data)


def forget_pretrained(node: object) -> None:
    """Take pretrained weights out of a model's config: no download, no reading."""
    if isinstance(node, dict):
        start = node.get('init_cfg')
        if isinstance(start, dict) and start.get('type') == 'Pretrained':
            node['init_cfg'] = None
        if 'pretrained' in node and isinstance(node['pretrained'], str):
            node['pretrained'] = None
        for part in node.values():
            forget_pretrained(part)
    elif isinstance(node, list | tuple):
        for part in node:
            forget_pretrained(part)
