"""Released detectors and segmenters, wherever OpenMMLab asks for one.

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
from mmengine.runner.checkpoint import CheckpointLoader

from mmssm.openmmlab.errors import UserError
from mmssm.weights import (
    RELEASED,
    DownloadError,
    fetch,
    from_official,
    load_file,
    official_name,
    save_file,
)

# data that a host package's models of ours are trained on
HOSTS = {'mmdet': 'COCO', 'mmseg': 'ADE20K'}
DATASET = {'detection': 'mmdet.CocoDataset', 'segmentation': 'mmseg.ADE20KDataset'}


def converted(name: str) -> Path:
    """File under our names of a released detector or segmenter.

    name: key of `mmssm.weights.RELEASED`.  Downloads and converts at first use.
    Raises DownloadError, and ValueError for a file that is not what was released.
    """
    source = fetch(name)
    target = source.with_name(f'{source.stem}.converted.pth')
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        entry = RELEASED[name]
        weights = from_official(load_file(source), entry.family)
        data = DATASETS.get(DATASET[entry.task]).METAINFO
        classes = {key: list(data[key]) for key in ('classes', 'palette')}
        save_file({'meta': {'dataset_meta': classes}, 'state_dict': weights}, target)
    return target


def of_config(cfg: Config) -> str:
    """File under our names of what was released for a config of this name.

    Raises UserError for what was not released and for what cannot be had.
    """
    try:
        return str(converted(official_name('', '', task=cfg.filename or '')))
    except (DownloadError, ValueError) as error:
        raise UserError(str(error)) from error


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
