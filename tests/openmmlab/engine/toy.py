"""The smallest thing mmengine can train, with randomness wherever there can be some."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
custom_imports = dict(imports=['openmmlab.engine.toy'])
default_scope = 'mmengine'
model = dict(type='ToyModel')
loader = dict(batch_size=2, num_workers={workers}, persistent_workers={workers} > 0)
train_dataloader = dict(
    dataset=dict(type='ToyData', noisy=True),
    sampler=dict(type='{sampler}', shuffle=True), **loader)
val_dataloader = test_dataloader = dict(
    dataset=dict(type='ToyData'), sampler=dict(type='DefaultSampler', shuffle=False),
    **loader)
val_evaluator = test_evaluator = dict(type='ToyMetric', prefix='toy')
train_cfg = {loop}
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9))
param_scheduler = dict(
    type='PolyLR', power=0.9, eta_min=1e-5, begin=0, end=24, by_epoch=False)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(
        type='CheckpointHook', interval={interval}, by_epoch={by_epoch},
        max_keep_ckpts=1, save_best='toy/mean', rule='greater'))
log_processor = dict(by_epoch={by_epoch})
custom_hooks = [dict(type='DieHook')]
randomness = dict(seed=3)
"""
LOOPS = {
    'iterations': dict(
        loop="dict(type='IterBasedTrainLoop', max_iters=18, val_interval=6)",
        sampler='InfiniteSampler',
        interval=6,
        by_epoch=False,
    ),
    'epochs': dict(
        loop="dict(type='EpochBasedTrainLoop', max_epochs=3)",
        sampler='DefaultSampler',
        interval=1,
        by_epoch=True,
    ),
}


def write_config(folder: Path, loop: str = 'iterations', workers: int = 0) -> Path:
    """A config whose run has 18 iterations and saves and validates after every 6."""
    path = folder / f'{loop}{workers}.py'
    path.write_text(CONFIG.format(workers=workers, **LOOPS[loop]))
    return path


def environment() -> dict[str, str]:
    """Of processes that can import the package and this module."""
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    return {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}


def curve(work_dir: Path) -> dict[int, float]:
    """Iteration -> loss, of all runs in a work_dir."""
    losses = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                losses[entry['step']] = entry['loss']
    return losses


@DATASETS.register_module()
class ToyData(Dataset):
    """Twelve vectors; noise from the generators of NumPy, Python and torch."""

    metainfo = {}

    def __init__(self, noisy: bool = False):
        self.noisy = noisy

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = np.random.rand() + random.random() + torch.rand(()).item()
        noise *= self.noisy
        return dict(inputs=torch.full((4,), index + noise), place=torch.tensor(index))


@MODELS.register_module()
class ToyModel(BaseModel):
    """Two linear layers with dropout between them.

    nan_at: calls (from 1) whose loss_b is NaN, on rank `nan_rank` or on all.
    """

    def __init__(
        self,
        width: int = 8,
        backbone: dict | None = None,
        nan_at: tuple[int, ...] = (),
        nan_rank: int | None = None,
    ):
        super().__init__()
        self.nan_at = nan_at if nan_rank in (None, get_rank()) else ()
        self.calls = 0
        self.backbone = MODELS.build(backbone) if backbone else None
        self.net = nn.Sequential(
            nn.Linear(4, width),
            nn.BatchNorm1d(width),
            nn.Dropout(),
            nn.Linear(width, 1),
        )

    def forward(self, inputs, place, mode='tensor'):
        x = torch.stack(inputs) if isinstance(inputs, list) else inputs
        out = self.net(x)
        if mode == 'loss':
            self.calls += 1
            loss = (out - x.mean(1, keepdim=True)).square().mean()
            if self.nan_at:
                factor = float('nan') if self.calls in self.nan_at else 1.0
                return dict(loss_a=loss, loss_b=factor * loss, acc=out.mean() / 0)
            return dict(loss=loss)
        return list(out)


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """Mean output; draws numbers, as a validation may."""

    def process(self, data_batch, data_samples):
        torch.rand(3), np.random.rand(3)
        self.results += [sample.item() for sample in data_samples]

    def compute_metrics(self, results):
        return dict(mean=float(np.mean(results)))


@HOOKS.register_module()
class DieHook(Hook):
    """Ends the process as kill -9 does, after an iteration or while it saves."""

    priority = 'LOWEST'

    def __init__(self, after: int = -1, in_save: int = -1):
        self.after = after
        self.in_save = in_save

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.after:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_save_checkpoint(self, runner, checkpoint):
        if runner.iter + 1 >= self.in_save > 0:
            checkpoint['padding'] = torch.zeros(1_000_000)
            os.fsync = die_half_way


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends a signal to its process of one rank in an iteration.

    after=-2: in none, but the run takes its time, and the file `begun` tells of it.
    """

    def __init__(self, after: int = -1, number: int = 15, rank: int = 0):
        self.after = after
        self.number = number
        self.rank = rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.after == -2:
            time.sleep(0.5)
            Path(runner.work_dir, 'begun').touch()
        if runner.iter + 1 == self.after and runner.rank == self.rank:
            os.kill(os.getpid(), self.number)


def die_half_way(file: int) -> None:
    """Leave half of the file that is being written, as a kill in the middle does."""
    os.ftruncate(file, os.fstat(file).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
