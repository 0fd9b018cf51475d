"""The runs of a comparison: what each trains, on which pictures, and what changed."""

import copy
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

import mmssm.registry  # noqa: F401 (datasets and models by name)
from mmssm.openmmlab.engine.configs import require, task_scope
from mmssm.openmmlab.errors import UserError

CHECKPOINTS, LINES = 5, 10  # of a run of --iterations: how often it saves, and logs


class Run(NamedTuple):
    """A training: a config by its label, a share of the pictures, a seed.

    folder: holds config.py, train/, test/ and, once finished, result.json.
    """

    label: str
    fraction: float
    seed: int
    folder: Path

    def name(self) -> str:
        return f'{self.label}, {percent(self.fraction)}, seed {self.seed}'


def percent(fraction: float) -> str:
    return f'{100 * fraction:g} %'


def plan(
    labels: Sequence[str], fractions: Sequence[float], seeds: Sequence[int], out: Path
) -> list[Run]:
    """Seeds outermost, so that what is finished early is of all configs alike."""
    return [
        Run(label, fraction, seed, out / label / f'{100 * fraction:g}' / str(seed))
        for seed in seeds
        for fraction in fractions
        for label in labels
    ]


def derive(cfg: Config, seed: int, iterations: int | None = None) -> Config:
    """The config of a run: a seed, a length, one evaluation, at the end.

    iterations: in place of the config's own length; what counts epochs counts
    iterations then.  The loop of validation is left out, so that the last checkpoint
    is compared, and not the best of several on what it is compared by.
    Raises UserError for a config that trains or tests nothing.
    """
    cfg = copy.deepcopy(cfg)
    require(cfg, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    for part in ('dataloader', 'cfg', 'evaluator'):
        if cfg.get(f'test_{part}') is None:
            cfg[f'test_{part}'] = cfg.get(f'val_{part}')
        cfg[f'val_{part}'] = None
    require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    cfg.work_dir = None
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    hooks = cfg.setdefault('default_hooks', {})
    saving = dict(hooks.get('checkpoint') or {'type': 'CheckpointHook'})
    for key in ('save_best', 'rule'):
        saving.pop(key, None)
    saving['max_keep_ckpts'] = 1
    if iterations:
        never = iterations + 1
        cfg.train_cfg = dict(
            type='IterBasedTrainLoop', max_iters=iterations, val_interval=never
        )
        cfg.log_processor = dict(cfg.get('log_processor') or {}, by_epoch=False)
        logging = dict(hooks.get('logger') or {'type': 'LoggerHook'})
        often = max(1, iterations // LINES)
        logging['interval'] = min(logging.get('interval', often), often)
        hooks['logger'] = logging
        saving.update(by_epoch=False, interval=max(1, iterations // CHECKPOINTS))
    hooks['checkpoint'] = saving
    return cfg


def take(cfg: Config, fraction: float, seed: int, names: Sequence[str]) -> None:
    """Train on a share of the pictures, drawn by their names with the seed.

    names: of all pictures of the training data, in the order of the data.  Data with
    the same pictures in another order give the same ones.
    Raises UserError for a share in which no picture is left.
    """
    count = round(fraction * len(names))
    if not 0 < count <= len(names):
        raise UserError(
            f'--fraction {fraction:g} of {len(names)} pictures are {count}; expected '
            f'from 1 to all, so a fraction from {1 / max(len(names), 1):.2g} to 1'
        )
    if count == len(names):
        return
    order = sorted(range(len(names)), key=lambda index: (names[index], index))
    drawn = random.Random(f'{seed} {fraction:g}').sample(order, count)
    innermost(cfg).indices = sorted(drawn)


def innermost(cfg: Config) -> dict:
    """The settings of the training data that have the pictures, inside of wrappers.

    Raises UserError for several data sets in one, and for a choice made before.
    """
    dataset = cfg.train_dataloader.dataset
    while isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset.dataset
    if 'datasets' in dataset or 'type' not in dataset:
        raise UserError(
            f'--fraction: the training data are a {dataset.get("type")}, which has no '
            'pictures of its own; compare on one data set, or without --fraction'
        )
    if dataset.get('indices') is not None:
        raise UserError(
            '--fraction: train_dataloader.dataset has `indices` already; leave one out'
        )
    return dataset


def picture_names(cfg: Config) -> list[str]:
    """A name for each picture that a config trains on, in the order of its data."""
    settings = copy.deepcopy(innermost(cfg))
    settings['pipeline'] = []
    with DefaultScope.overwrite_default_scope(task_scope(cfg)):
        dataset = DATASETS.build(settings)
    dataset.full_init()
    entries = (dataset.get_data_info(index) for index in range(len(dataset)))
    return [
        Path(str(entry.get('img_path', number))).name
        for number, entry in enumerate(entries)
    ]


def budget(cfg: Config) -> dict[str, object]:
    """What has to be the same for configs that are compared."""
    train = {k: v for k, v in cfg.train_cfg.items() if k in ('max_iters', 'max_epochs')}
    return {**train, 'batch_size': cfg.train_dataloader.get('batch_size', 1)}


def differences(before: Mapping, now: Mapping) -> list[str]:
    """'key: before -> now' for each setting that differs, by its full name."""
    old, new = dict(_flat(before)), dict(_flat(now))
    absent = 'not set'
    return [
        f'{key}: {_short(old.get(key, absent))} -> {_short(new.get(key, absent))}'
        for key in dict.fromkeys((*old, *new))
        if old.get(key, absent) != new.get(key, absent)
    ]


def _flat(node: object, name: str = '') -> Iterator[tuple[str, object]]:
    """Leaves of nested settings; what is empty or has no dict in it is a leaf."""
    items: Sequence[tuple[object, object]] = ()
    if isinstance(node, Mapping):
        items = list(node.items())
    elif isinstance(node, list | tuple) and any(isinstance(n, Mapping) for n in node):
        items = list(enumerate(node))
    for key, value in items:
        yield from _flat(value, f'{name}.{key}' if name else str(key))
    if not items and name:
        yield name, list(node) if isinstance(node, tuple) else node


def _short(value: object) -> str:
    text = re.sub(r'\s+', ' ', str(value))
    return text if len(text) <= 40 else f'{text[:37]}...'
