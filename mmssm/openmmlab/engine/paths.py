"""Where the data and the pretrained weights of a config lie on disk."""

import os
from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config

from mmssm.openmmlab.errors import UserError
from mmssm.weights import RELEASED

# of mmpretrain: datasets whose split is a folder
SPLITS = ('ImageNet', 'mmpretrain.ImageNet')


def missing_paths(
    cfg: Config, loaders: Sequence[str] = ('train', 'val', 'test')
) -> list[tuple[str, str]]:
    """Annotation files and data folders of a config that do not exist.

    loaders: which of 'train', 'val' and 'test' to look at; one that the config does
    not have is passed over.  Looks into wrapped datasets and at the annotation files
    of the evaluators.  Paths on other storage ('s3://…') are not checked.
    Returns pairs (config key, path), the path as mmdet and mmseg would open it.
    """
    return [
        (key, path)
        for loader in loaders
        for key, path in _paths(cfg, loader)
        if '://' not in path and not os.path.exists(path)
    ]


def check_paths(cfg: Config, loaders: Sequence[str]) -> None:
    """Raise UserError that lists every missing path with its config key."""
    missing = missing_paths(cfg, loaders)
    if missing:
        lines = ''.join(f'\n  {key}: {path}' for key, path in missing)
        raise UserError(
            f'the dataset is not complete; there is nothing at{lines}\n'
            f'Relative paths start at {os.getcwd()}. Change data_root or these keys '
            'in the config, or by --cfg-options KEY=PATH'
        )


def check_pretrained(cfg: Config) -> None:
    """Raise UserError for a file of pretrained weights that is not there."""
    for key, path in _pretrained(cfg.model, 'model'):
        released = path == 'official' or path in RELEASED
        there = released or '://' in path or os.path.isfile(os.path.expanduser(path))
        if not there:
            raise UserError(
                f'{key}: there is no checkpoint at {path} (relative paths start at '
                f'{os.getcwd()}). Put the file there, change the path, or train from '
                f'scratch with --cfg-options {key.removesuffix(".checkpoint")}=None'
            )


def _pretrained(node: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        if node.get('type') == 'Pretrained' and isinstance(node.get('checkpoint'), str):
            yield f'{key}.checkpoint', node['checkpoint']
        parts = [(f'{key}.{name}', part) for name, part in node.items()]
    elif isinstance(node, list | tuple):
        parts = [(f'{key}[{index}]', part) for index, part in enumerate(node)]
    else:
        return
    for name, part in parts:
        yield from _pretrained(part, name)


def _paths(cfg: Config, loader: str) -> Iterator[tuple[str, str]]:
    dataloader = cfg.get(f'{loader}_dataloader')
    if dataloader is None or cfg.get(f'{loader}_cfg') is None:
        return
    yield from _dataset_paths(dataloader['dataset'], f'{loader}_dataloader.dataset')
    evaluators = cfg.get(f'{loader}_evaluator') or ()
    single = isinstance(evaluators, Mapping)
    for index, evaluator in enumerate([evaluators] if single else evaluators):
        if evaluator.get('ann_file'):
            place = '' if single else f'[{index}]'
            yield f'{loader}_evaluator{place}.ann_file', evaluator['ann_file']


def _dataset_paths(dataset: Mapping, key: str) -> Iterator[tuple[str, str]]:
    if 'dataset' in dataset:
        yield from _dataset_paths(dataset['dataset'], f'{key}.dataset')
    for index, part in enumerate(dataset.get('datasets', ())):
        yield from _dataset_paths(part, f'{key}.datasets[{index}]')
    root = dataset.get('data_root') or ''
    if dataset.get('ann_file'):
        yield f'{key}.ann_file', os.path.join(root, dataset['ann_file'])
    folders = dataset.get('data_prefix') or {}
    if isinstance(folders, str):
        yield f'{key}.data_prefix', os.path.join(root, folders)
        return
    if not folders and dataset.get('type') in SPLITS and not dataset.get('ann_file'):
        split = dataset.get('split') or ''
        yield f'{key}.split' if split else f'{key}.data_root', os.path.join(root, split)
    for name, prefix in folders.items():
        if root or prefix:
            yield f'{key}.data_prefix.{name}', os.path.join(root, prefix)
