"""Released detectors, segmenters and classifiers, wherever OpenMMLab asks for one.

mmengine finds a model by its name in a package's metafiles and reads its weights from
the address that stands there.  `offer` adds the models of this package to those of
mmdet and mmseg, and has the addresses read by `load_from_mmssm`: downloaded once,
checked, under our names, with the classes of the data that they were trained on.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import torch
from mmengine.config import Config
from mmengine.fileio import load as read
from mmengine.infer.infer import BaseInferencer
from mmengine.registry import DATASETS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.runner.checkpoint import CheckpointLoader

from mmssm.backbones.classifier import as_ours
from mmssm.openmmlab.errors import UserError
from mmssm.weights import (
    RELEASED,
    DownloadError,
    fetch,
    from_official,
    load_file,
    official_name,
    save_file,
    unwrap,
)
from mmssm.weights.official.family import StateDict

# data that a host package's models of ours are trained on
HOSTS = {'mmdet': 'COCO', 'mmseg': 'ADE20K'}
# families of which a classifier's last norm is none of the backbone's
NORM_IN_NECK = ('vminet',)
DATASET = {'detection': 'mmdet.CocoDataset', 'segmentation': 'mmseg.ADE20KDataset'}


def converted(name: str) -> Path:
    """File under our names of a released detector or segmenter, or of a classifier.

    name: key of `mmssm.weights.RELEASED`.  Downloads and converts at first use.  A
    classifier gets the names of mmpretrain's ImageClassifier.
    Raises DownloadError, and ValueError for a file that is not what was released.
    """
    source = fetch(name)
    target = source.with_name(f'{source.stem}.converted.pth')
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        entry = RELEASED[name]
        if entry.task == 'classification':
            weights = for_mmpretrain(unwrap(load_file(source)), entry.family)
            save_file({'meta': {}, 'state_dict': weights}, target)
            return target
        weights = from_official(load_file(source), entry.family)
        data = DATASETS.get(DATASET[entry.task]).METAINFO
        classes = {key: list(data[key]) for key in ('classes', 'palette')}
        save_file({'meta': {'dataset_meta': classes}, 'state_dict': weights}, target)
    return target


def for_mmpretrain(weights: StateDict, family: str) -> StateDict:
    """A classifier's weights, ours or released, as an ImageClassifier of ours has them.

    The last norm belongs to the neck in families whose backbones have none.
    """
    norm = 'neck.norm.' if family in NORM_IN_NECK else 'backbone.out_norms.3.'
    renamed = {}
    for name, weight in as_ours(weights, family).items():
        if name.startswith('norm.'):
            name = norm + name.removeprefix('norm.')
        renamed[re.sub(r'^head\.', 'head.fc.', name)] = weight
    return renamed


def of_config(cfg: Config) -> str:
    """File under our names of what was released for a config of this name.

    Raises UserError for what was not released and for what cannot be had.
    """
    try:
        return str(converted(_name_of(cfg)))
    except (DownloadError, ValueError) as error:
        raise UserError(str(error)) from error


def _name_of(cfg: Config) -> str:
    """Key of RELEASED; ValueError where nothing was released."""
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    built = MMENGINE_MODELS.get(str(backbone.get('type')))
    if cfg.get('default_scope') == 'mmpretrain' and hasattr(built, 'family'):
        return official_name(built.family, str(backbone.get('arch')))
    return official_name('', '', task=cfg.filename or '')


def load_from_mmssm(
    address: str, map_location: str | torch.device | None = None
) -> dict:
    """Checkpoint of a released detector or segmenter, for mmengine.

    address: its URL, on the device that mmengine wants.  Raises as `converted`.
    """
    name = next(name for name, entry in RELEASED.items() if entry.url == address)
    return torch.load(converted(name), map_location=map_location, weights_only=True)


def offer() -> None:
    """Let mmdet's and mmseg's inferencers find the models of this package by name."""
    entries = [entry for entry in RELEASED.values() if entry.task in DATASET]
    addresses = [re.escape(entry.url) for entry in entries]  # taken for patterns
    CheckpointLoader.register_scheme(addresses, load_from_mmssm, force=True)
    BaseInferencer._get_models_from_metafile = staticmethod(_models_and_ours)


_models = BaseInferencer._get_models_from_metafile


def _models_and_ours(folder: str) -> Iterator[dict]:
    """Entries of the metafiles under a folder, with ours where it is a host's."""
    yield from _models(folder)
    place = PurePath(folder)  # PACKAGE/.mim, or the root of a source tree
    for host, data in HOSTS.items():
        if place.parent.name != host and not Path(place, host).is_dir():
            continue
        root = BaseInferencer._get_repo_or_mim_dir('mmssm')
        for metafile in read(str(Path(root, 'model-index.yml')))['Import']:
            for model in read(str(Path(root, metafile)))['Models']:
                if model['Metadata']['Training Data'] == data:
                    config = str(Path(root, model['Config']))
                    yield {'Weights': None, **model, 'Config': config}
