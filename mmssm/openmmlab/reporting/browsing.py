"""What the pipeline of a config really feeds a model, as pictures for the eye."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from pycocotools import mask as coco_mask

from mmssm.openmmlab.data_checks.leaves import first_lines, leaves, quiet
from mmssm.openmmlab.engine import configs
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction.drawing import class_colours, coloured, shares
from mmssm.openmmlab.prediction.model import meta_of
from mmssm.openmmlab.reporting.pairs import LONGEST, draw_objects, with_ignored
from mmssm.openmmlab.reporting.sheets import Tile
from mmssm.openmmlab.reporting.truth import Objects


class Fed(NamedTuple):
    """A sample behind pipeline and data preprocessor.

    image: (H, W, 3) uint8 RGB, not normalised any more.  sample: its annotations.
    """

    image: np.ndarray
    sample: object
    path: str


class Feed:
    """Samples of a loader as the model gets them: augmented, padded, normalised."""

    def __init__(self, cfg: Config, loader: str = 'train', seed: int = 0) -> None:
        """loader: 'train', 'val' or 'test'.  seed: of the augmentation.

        Raises UserError where dataset or preprocessor cannot be built.
        """
        key = f'{loader}_dataloader'
        configs.require(cfg, key)
        self.scope, self.seed, self.key = configs.task_scope(cfg), seed, key
        self._training = loader == 'train'
        with DefaultScope.overwrite_default_scope(self.scope):
            try:
                with quiet():
                    self.dataset = DATASETS.build(copy.deepcopy(cfg[key].dataset))
                    settings = copy.deepcopy(cfg.model.get('data_preprocessor'))
                    settings = settings or {'type': 'mmengine.BaseDataPreprocessor'}
                    self._preprocessor = MODELS.build(settings)
            # Anything may go wrong in what the config names; the user gets to see it.
            except Exception as error:
                raise UserError(
                    f'{key} cannot be built: {type(error).__name__}: '
                    f'{first_lines(error)}. mmssm-check-data CONFIG looks closer'
                ) from error
            meta = getattr(self.dataset, 'metainfo', None) or {}
            self.classes = tuple(meta.get('classes') or ())
            leaf = next(leaves(cfg[key].dataset, key))
            palette = [tuple(c) for c in meta_of(leaf.settings).get('palette') or ()]
        fits = len(palette) >= len(self.classes)
        self.colours = palette if fits else class_colours(self.classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Fed:
        """The sample of an index, the same each time.

        Raises UserError where the pipeline fails or gives several views.
        """
        seed = self.seed * 1_000_003 + index
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope(self.scope):
            try:
                with quiet():
                    item = self.dataset[index]
            # as above
            except Exception as error:
                raise UserError(
                    f'{self.key}: sample {index} fails with {type(error).__name__}: '
                    f'{first_lines(error)}'
                ) from error
            inputs = item.get('inputs') if isinstance(item, Mapping) else None
            if not isinstance(inputs, torch.Tensor):
                raise UserError(
                    f'{self.key} gives {type(inputs).__name__} as inputs of a sample; '
                    'expected one picture: a pipeline that ends in PackDetInputs or '
                    'PackSegInputs, without several branches'
                )
            data = self._preprocessor(pseudo_collate([item]), self._training)
        (sample,) = data['data_samples']
        path = str(sample.metainfo.get('img_path', ''))
        return Fed(self._shown(data['inputs'][0]), sample, path)

    def tiles(self, indices: Sequence[int]) -> Iterator[Tile]:
        """A tile for each, with boxes, masks and labels."""
        for index in indices:
            fed = self[index]
            drawn, about, legend = self._drawn(fed)
            high, wide = fed.image.shape[:2]
            words = f'{high} × {wide} · {about}'
            name = Path(fed.path).name or f'sample {index}'
            yield Tile(drawn, (name, words), legend)

    def _shown(self, inputs: torch.Tensor) -> np.ndarray:
        """(C, H, W) as the model gets it -> the picture that it was."""
        inputs = inputs.float()
        if getattr(self._preprocessor, '_enable_normalize', False):
            shape = (-1, 1, 1)
            mean, std = self._preprocessor.mean, self._preprocessor.std
            inputs = inputs * std.view(shape) + mean.view(shape)
        if inputs.shape[0] != 3:
            inputs = inputs[:1].repeat(3, 1, 1)
        elif not getattr(self._preprocessor, '_channel_conversion', False):
            inputs = inputs.flip(0)  # pictures are read in the order BGR
        low, high = float(inputs.min()), float(inputs.max())
        if low < -64 or high > 320 or high <= 8:  # other units: normalised before
            inputs = 255 * (inputs - low) / max(high - low, 1e-6)
        array = inputs.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        return np.ascontiguousarray(array)

    def _drawn(self, fed: Fed) -> tuple[np.ndarray, str, list]:
        sample = fed.sample
        if 'gt_sem_seg' in sample and 'gt_instances' not in sample:
            labels = sample.gt_sem_seg.data[0].cpu().numpy().astype(np.int64)
            known, names, tones = with_ignored(labels, self.classes, self.colours)
            drawn = coloured(fed.image, known, tones, LONGEST)
            count = np.unique(labels[labels < len(self.classes)]).size
            ignored = 100 * float((labels >= len(self.classes)).mean())
            about = f'{count} classes, {ignored:.0f} % ignored'
            present = shares(known, names, tones)
            legend = [(f'{n} {100 * share:.0f} %', c) for n, share, c in present]
            return drawn, about, legend
        if 'gt_instances' not in sample:
            return fed.image, 'no annotations', []
        truth = _objects(sample)
        drawn = draw_objects(truth, fed.image, self.classes, self.colours)
        ignored = int(truth.ignored.sum())
        about = f'{len(truth.boxes) - ignored} objects'
        return drawn, about + f', {ignored} ignored' * bool(ignored), []


def _objects(sample: object) -> Objects:
    """Annotations of a packed sample, with the ignored ones."""
    parts, ignored = [sample.gt_instances], sample.get('ignored_instances')
    if ignored is not None:
        parts.append(ignored)
    boxes, labels, masks = [], [], []
    for part in parts:
        if 'bboxes' not in part:
            continue
        tensor = part.bboxes.tensor if hasattr(part.bboxes, 'tensor') else part.bboxes
        boxes.append(tensor.cpu().numpy().reshape(-1, 4))
        labels.append(part.labels.cpu().numpy())
        if 'masks' in part:
            bits = part.masks.to_ndarray().astype(np.uint8)
            masks += [coco_mask.encode(np.asfortranarray(mask)) for mask in bits]
    counts = [len(b) for b in boxes] + [0, 0]
    return Objects(
        np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
        np.concatenate([np.zeros(0, np.int64), *labels]),
        masks if masks and len(masks) == sum(counts) else None,
        np.arange(sum(counts)) >= counts[0],
    )
