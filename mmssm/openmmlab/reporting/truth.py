"""What is really in the pictures of a config's data, as its datasets parse it."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from pycocotools import mask as coco_mask

from mmssm.openmmlab.data_checks.leaves import Leaf, first_lines, leaves, quiet
from mmssm.openmmlab.engine import configs
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.reporting.segments import Segments, read_segments


class Objects(NamedTuple):
    """Objects of a picture.

    boxes: (N, 4) float32, left, top, right, bottom.  labels: (N,) int.  masks: N
    run-length encodings of COCO, or None.  ignored: (N,) bool: crowds and difficult
    ones, which count neither as found nor as missed.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: list[dict] | None
    ignored: np.ndarray


class Regions(NamedTuple):
    """Labels of a picture's pixels, (H, W) int; one that no class has is ignored."""

    labels: np.ndarray


Truth = Objects | Regions | Segments


class Picture(NamedTuple):
    """A picture of a dataset.  info: all that the dataset parsed of it."""

    path: str
    info: dict


class Truths:
    """The pictures of a loader of a config, in the dataset's order, and their truth.

    key: the part of the config that they come from.  classes: names by label.
    of_pixels: whether the truth is Regions or Segments, not Objects.
    things: of Segments how many classes, the first ones, are of things; else None.
    measure: what a picture's score is.
    """

    def __init__(self, cfg: Config, loader: str = 'test') -> None:
        """loader: 'train', 'val' or 'test'; wrappers around datasets are looked into.

        Raises UserError for data that cannot be read, that has no truth of a kind that
        is known, and for datasets with different classes.
        """
        self.key = f'{loader}_dataloader'
        configs.require(cfg, self.key)
        self.scope = configs.task_scope(cfg)
        self.things: int | None = None
        self.pictures: list[Picture] = []
        self._readers, self._which = [], []
        self.classes, palette, things = None, None, set()
        with DefaultScope.overwrite_default_scope(self.scope):
            for leaf in leaves(cfg[self.key].dataset, f'{self.key}.dataset'):
                dataset = _build(leaf)
                meta = getattr(dataset, 'metainfo', None) or {}
                classes = tuple(meta.get('classes') or ())
                if self.classes not in (None, classes):
                    raise UserError(
                        f'{leaf.key} has other classes than the datasets before it'
                    )
                self.classes, palette = classes, meta.get('palette')
                regions = self.scope == configs.SEGMENTATION
                self._readers.append(_reader(leaf) if regions else None)
                things.add(_things(leaf, meta))
                infos = [dataset.get_data_info(i) for i in range(len(dataset))]
                self.pictures += [Picture(info.get('img_path'), info) for info in infos]
                self._which += [len(self._readers) - 1] * len(infos)
        if len(things) > 1:
            raise UserError(
                f'{self.key} has panoptic datasets beside others; compare with one kind'
            )
        (self.things,) = things
        self.of_pixels = self.scope == configs.SEGMENTATION or self.things is not None
        self._check()
        self.palette = [tuple(c) for c in palette or ()]

    def _check(self) -> None:
        if not self.pictures:
            raise UserError(f'{self.key} has no picture; mmssm-check-data says why')
        wanted = 'seg_map_path' if self.of_pixels else 'instances'
        wanted = wanted if self.things is None else 'segments_info'
        if not any(picture.info.get(wanted) for picture in self.pictures):
            raise UserError(
                f'{self.key} gives no {wanted}, so there is nothing to compare '
                'predictions with: name data that has annotations by --data val'
            )
        if not self.classes:
            raise UserError(
                f'{self.key} does not name its classes: '
                "metainfo=dict(classes=('first', 'second')) in the dataset"
            )

    @property
    def measure(self) -> str:
        if self.things is not None:
            return 'PQ'
        return 'mean IoU' if self.of_pixels else 'F1'

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Truth:
        """Raises UserError for a label map that cannot be read."""
        path, info = self.pictures[index]
        if self.things is not None:
            return read_segments(info, self.things)
        if not self.of_pixels:
            return _objects(info)
        results = copy.deepcopy(info)
        results.setdefault('seg_fields', [])
        try:
            read = self._readers[self._which[index]](results)
        except (OSError, ValueError, AssertionError, AttributeError) as error:
            raise UserError(
                f'the label map {info.get("seg_map_path")} of {path} cannot be read: '
                f'{first_lines(error)}'
            ) from error
        return Regions(read['gt_seg_map'].astype(np.int64))

    def has_masks(self) -> bool:
        """Whether some object has a mask."""
        if self.of_pixels:
            return False
        return any('mask' in i for p in self.pictures for i in _instances(p.info))


def find_steps(pipeline: object, name: str | tuple[str, ...]) -> Iterator[Mapping]:
    """Steps of a pipeline, nested ones too, whose type ends in `name`, or one of it."""
    if isinstance(pipeline, Mapping):
        kind = pipeline.get('type', '')
        kind = kind if isinstance(kind, str) else kind.__name__
        if kind.endswith(name):
            yield pipeline
        for part in pipeline.values():
            yield from find_steps(part, name)
    elif isinstance(pipeline, list | tuple):
        for part in pipeline:
            yield from find_steps(part, name)


def _build(leaf: Leaf) -> Sequence:
    """The dataset without its pipeline."""
    settings = dict(leaf.settings)
    if isinstance(leaf.kind, type) and issubclass(leaf.kind, BaseDataset):
        settings |= dict(pipeline=[], serialize_data=False, lazy_init=False)
    try:
        with quiet():
            dataset = DATASETS.build(settings)
    # Anything may go wrong in what the config names; the user gets to see what.
    except Exception as error:
        raise UserError(
            f'{leaf.key} ({leaf.kind.__name__}) cannot be read: '
            f'{type(error).__name__}: {first_lines(error)}. mmssm-check-data CONFIG '
            'looks closer'
        ) from error
    if not hasattr(dataset, 'get_data_info'):
        raise UserError(
            f'{leaf.key} is a {leaf.kind.__name__}, which does not tell what it parsed '
            '(get_data_info)'
        )
    return dataset


def _things(leaf: Leaf, meta: Mapping) -> int | None:
    """Number of the classes of things of a panoptic dataset; None of another one."""
    if 'CocoPanopticDataset' not in leaf.bases:
        return None
    names = tuple(meta.get('thing_classes') or ())
    if names != tuple(meta.get('classes') or ())[: len(names)]:
        raise UserError(
            f'the classes of {leaf.key} do not begin with its thing_classes; expected '
            'metainfo=dict(classes=(*things, *stuff), thing_classes=things, '
            'stuff_classes=stuff)'
        )
    return len(names)


def _reader(leaf: Leaf) -> object:
    """The step of the pipeline that reads label maps."""
    steps = find_steps(leaf.settings.get('pipeline') or (), 'LoadAnnotations')
    return TRANSFORMS.build(dict(next(steps, {'type': 'LoadAnnotations'})))


def _instances(info: Mapping) -> list[Mapping]:
    return info.get('instances') or []


def _objects(info: Mapping) -> Objects:
    found = _instances(info)
    boxes = np.array([i['bbox'] for i in found], np.float32).reshape(-1, 4)
    labels = np.array([i['bbox_label'] for i in found], np.int64)
    ignored = np.array([bool(i.get('ignore_flag')) for i in found], bool)
    masks = None
    if any('mask' in i for i in found):
        size = (int(info['height']), int(info['width']))
        masks = [_encoded(i, size) for i in found]
    return Objects(boxes, labels, masks, ignored)


def _encoded(instance: Mapping, size: tuple[int, int]) -> dict:
    """The mask of an object as a run-length encoding; without one its box."""
    mask = instance.get('mask')
    if mask is None:
        left, top, right, bottom = instance['bbox']
        mask = [[left, top, right, top, right, bottom, left, bottom]]
    if isinstance(mask, Mapping):
        if isinstance(mask['counts'], list):
            return coco_mask.frPyObjects(dict(mask), *size)
        return dict(mask)
    polygons = [list(p) for p in mask if len(p) >= 6]
    if not polygons:
        return coco_mask.encode(np.zeros(size, np.uint8, order='F'))
    return coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
