"""A config and a checkpoint as a function from pictures to what is in them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, DefaultScope
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from mmssm.openmmlab import released
from mmssm.openmmlab.engine import configs, loading, mixed_precision
from mmssm.openmmlab.engine.classes import names_in
from mmssm.openmmlab.engine.config_keys import check_config
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction.drawing import class_colours
from mmssm.openmmlab.prediction.results import (
    NOTHING,
    THINGS,
    Detections,
    Segmentation,
)
from mmssm.openmmlab.prediction.slicing import (
    AveragedLabels,
    merge_detections,
    windows,
)
from mmssm.weights import unwrap

GREY = (128, 128, 128)
Picture = str | Path | np.ndarray | Image.Image
Result = Detections | Segmentation


def load(
    config: str | Path | Config,
    checkpoint: str | Path,
    device: str | torch.device | None = None,
    *,
    amp: str | None = None,
) -> 'Predictor':
    """A trained detector or segmenter, ready for pictures.

    config: file of any config of mmdet or mmseg, or a config that has been read.
    checkpoint: its weights; 'official' takes what was released for a config of this
    name.  device: 'cpu', 'cuda', 'cuda:1', …; by default a GPU where there is one.
    amp: kind of mixed precision, 'bf16' or 'fp16'; None computes in float32.

    Raises UserError for what can be put right: files that are not there, a checkpoint
    that does not fit the config, a device that is not there, a classifier.
    """
    cfg = config if isinstance(config, Config) else configs.read_config(str(config))
    configs.require(cfg, 'test_dataloader')
    scope = configs.task_scope(cfg)
    if scope == configs.CLASSIFICATION:
        raise UserError(
            f'{cfg.filename} is a classifier, which gives no boxes, masks or labels of '
            'pixels; expected a detector or a segmenter. mmssm-evaluate CONFIG FOLDER '
            'says how many pictures a classifier gets right'
        )
    model, meta = trained_model(cfg, str(checkpoint), device)
    with DefaultScope.overwrite_default_scope(scope):
        dataset = cfg.test_dataloader.dataset
        while 'dataset' in dataset or 'datasets' in dataset:
            dataset = dataset.get('dataset') or dataset['datasets'][0]
        own = meta_of(dataset)
        # colours of a checkpoint may be random ones
        meta = {
            'palette': own.get('palette'),
            'classes': meta.get('classes') or own.get('classes'),
        }
        if amp:
            mixed_precision.use_float32_ops()
        return Predictor(model, dataset.pipeline, meta, scope, amp)


def trained_model(
    cfg: Config, checkpoint: str, device: str | torch.device | None = None
) -> tuple[nn.Module, dict]:
    """The model of a config for any task, with weights, to be evaluated.

    checkpoint, device: see `load`.  Returns also what the checkpoint says of the
    classes of its data.
    Raises UserError as `load` does.
    """
    device = _device(device)
    check_config(cfg)
    with DefaultScope.overwrite_default_scope(configs.task_scope(cfg)):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
        meta = _load_weights(model, cfg, checkpoint)
    return model.to(device).eval(), meta


class Predictor:
    """Predicts on pictures of any size; made by `load`.

    classes: names by label.  colours: RGB by label.
    """

    def __init__(
        self,
        model: nn.Module,
        pipeline: Sequence[Mapping],
        meta: Mapping,
        scope: str,
        amp: str | None = None,
    ) -> None:
        self.model = model
        self.scope = scope
        self.amp = amp
        self.classes = tuple(meta.get('classes') or ())
        self.colours = [tuple(c) for c in meta.get('palette') or ()]
        self._read, self._prepare = self._transforms(pipeline)

    def __call__(
        self,
        pictures: Picture | Sequence[Picture],
        *,
        score: float = 0.3,
        batch: int = 1,
        slice: int | None = None,  # noqa: A002 (the word for it)
        overlap: float = 0.2,
    ) -> Result | list[Result]:
        """What is in a picture, or a list for several.

        pictures: paths, PIL images, or (H, W, 3) uint8 arrays in RGB.
        score: objects below it are left out.  batch: pictures, or windows of one, that
        are computed together.  slice: length of the sides of overlapping windows that
        a large picture is looked at in; None looks at it whole.  overlap: share of a
        window that the next one covers too.
        Objects of windows are merged by class-wise NMS, labels by averaged logits.

        Raises UserError for a file that is no picture, ValueError for an array of
        another shape or type and for a slice or overlap that is none.
        """
        one = not isinstance(pictures, list | tuple)
        given = [pictures] if one else list(pictures)
        if slice is None:
            found = [
                result
                for start in range(0, len(given), batch)
                for result in self._whole(given[start : start + batch], score)
            ]
        else:
            found = [self._sliced(p, score, batch, slice, overlap) for p in given]
        return found[0] if one else found

    def input_of(self, picture: Picture) -> Tensor:
        """What the network gets of a picture, resized and normalised: (1, C, H, W).

        Raises as a call does.
        """
        with DefaultScope.overwrite_default_scope(self.scope):
            packed = self._prepare(self._start(self._image(picture)))
            data = self.model.data_preprocessor(pseudo_collate([packed]), False)
        inputs = data['inputs']
        return inputs[0][None] if isinstance(inputs, list) else inputs

    def _whole(self, pictures: Sequence[Picture], score: float) -> list[Result]:
        images = [self._image(picture) for picture in pictures]
        samples = self._run(images)
        return [
            self._result(image, sample, score)
            for image, sample in zip(images, samples, strict=True)
        ]

    def _sliced(
        self, picture: Picture, score: float, batch: int, size: int, overlap: float
    ) -> Result:
        image = self._image(picture)
        places = windows(*image.shape[:2], size, overlap)
        parts, averaged = [], None
        for start in range(0, len(places), batch):
            group = places[start : start + batch]
            crops = [np.ascontiguousarray(image[t:b, i:j]) for t, i, b, j in group]
            for place, crop, sample in zip(group, crops, self._run(crops), strict=True):
                if 'seg_logits' in sample:
                    logits = sample.seg_logits.data.float()
                    if averaged is None:
                        shape = image.shape[:2]
                        averaged = AveragedLabels(*shape, self._threshold())
                    one = len(logits) == 1
                    averaged.add(place, logits.sigmoid() if one else logits)
                else:
                    parts.append((place, self._result(crop, sample, score)))
        if averaged is not None:
            return self._segmentation(image, averaged.result())
        if not isinstance(parts[0][1], Detections):
            raise UserError(
                'panoptic predictions of windows cannot be merged; predict without '
                'slices'
            )
        return merge_detections(parts[0][1]._replace(image=_rgb(image)), parts)

    def _threshold(self) -> float:
        """Of the probability of a single channel, as the head has it."""
        head = self.model.decode_head
        last = head[-1] if isinstance(head, nn.ModuleList) else head
        return float(last.threshold or 0.5)

    def with_gradients(self, picture: Picture) -> tuple[np.ndarray, object]:
        """A picture in RGB, (H, W, 3) uint8, and its sample of the host package.

        Scores and logits of the sample have a graph, where the model keeps one.
        Raises as a call does.
        """
        image = self._image(picture)
        (sample,) = self._run([image], gradients=True)
        return _rgb(image), sample

    def _run(self, images: Sequence[np.ndarray], gradients: bool = False) -> list:
        """Samples of the model, with predictions."""
        with DefaultScope.overwrite_default_scope(self.scope):
            packed = [self._prepare(self._start(image)) for image in images]
            samples = []
            with (
                torch.set_grad_enabled(gradients),
                mixed_precision.autocast(self.amp),
            ):
                for batch in self._batches(packed):
                    samples += self.model.test_step(pseudo_collate(batch))
        return samples

    def _batches(self, packed: Sequence[Mapping]) -> Iterator[list[Mapping]]:
        """Inputs that can be computed together: mmseg pads no pictures in a test."""
        if self.scope == configs.DETECTION:
            yield list(packed)
            return
        for _, group in groupby(packed, lambda item: item['inputs'].shape):
            yield list(group)

    def _transforms(self, pipeline: Sequence[Mapping]) -> tuple:
        """How a file is read, and what is done to the picture then."""
        steps = [copy.deepcopy(dict(step)) for step in pipeline]
        first = steps[0]['type']
        name = first if isinstance(first, str) else first.__name__
        if name.split('.')[-1] != 'LoadImageFromFile':
            raise UserError(
                f'the pipeline of test_dataloader begins with {name}; expected '
                'LoadImageFromFile: predictions on files of other kinds need a '
                'pipeline of their own'
            )
        # what describes the truth has no place here
        others = [s for s in steps[1:] if 'Annotations' not in str(s['type'])]
        for step in others:
            if 'meta_keys' in step:
                step['meta_keys'] = [k for k in step['meta_keys'] if k != 'img_id']
        return TRANSFORMS.build(steps[0]), Compose(others)

    def _start(self, image: np.ndarray) -> dict:
        """What LoadImageFromFile would give of a file with this picture."""
        height, width = image.shape[:2]
        if self._read.to_float32:
            image = image.astype(np.float32)
        return {
            'img': image,
            'img_shape': (height, width),
            'ori_shape': (height, width),
            'height': height,
            'width': width,
            'img_path': '',
            'img_id': 0,
            'seg_map_path': None,
            'seg_fields': [],
            'reduce_zero_label': False,
        }

    def _image(self, picture: Picture) -> np.ndarray:
        """As the pipeline reads files, BGR for colour."""
        if isinstance(picture, Image.Image):
            picture = np.asarray(picture.convert('RGB'))
        if isinstance(picture, np.ndarray):
            fits = picture.ndim == 3 and picture.shape[2] == 3 and picture.size
            if not fits or picture.dtype != np.uint8:
                raise ValueError(
                    f'a picture is an array {picture.shape} of {picture.dtype}; '
                    'expected (H, W, 3) of uint8, in RGB'
                )
            return np.ascontiguousarray(picture[..., ::-1])
        if not Path(picture).is_file():
            raise UserError(f'there is no picture at {picture}')
        try:
            read = self._read({'img_path': str(picture)}) or {}
        except (
            AssertionError,
            AttributeError,
            OSError,
            ValueError,
            cv2.error,
        ) as error:
            read, reason = {}, f': {error}'
        else:
            reason = ''
        if read.get('img') is None:
            raise UserError(f'{picture} cannot be read as a picture{reason}')
        return read['img']

    def _result(self, image: np.ndarray, sample: object, score: float) -> Result:
        if 'pred_sem_seg' in sample:
            return self._segmentation(image, _labels(sample.pred_sem_seg.data))
        if 'pred_panoptic_seg' in sample:
            found = _labels(sample.pred_panoptic_seg.sem_seg).astype(np.int64)
            return self._panoptic(image, found)
        if 'pred_instances' not in sample:
            raise UserError(
                f'{type(self.model).__name__} gives no boxes, masks or labels; '
                f'its samples have {", ".join(sample.all_keys())}'
            )
        objects = sample.pred_instances
        boxes = objects.bboxes
        boxes = boxes.tensor if hasattr(boxes, 'tensor') else boxes
        order = objects.scores.argsort(descending=True)
        labels = _numbers(objects.labels[order]).astype(np.int64)
        classes, colours = self._names(int(labels.max(initial=-1)) + 1)
        found = Detections(
            _rgb(image),
            classes,
            colours,
            _numbers(boxes[order]).astype(np.float32).reshape(-1, 4),
            _numbers(objects.scores[order]).astype(np.float32),
            labels,
            [*_encoded(objects.masks, order.tolist())] if 'masks' in objects else None,
        )
        return found.above(score)

    def _segmentation(self, image: np.ndarray, labels: np.ndarray) -> Segmentation:
        classes, colours = self._names(int(labels.max()) + 1)
        kind = np.uint8 if len(classes) <= 256 else np.uint16
        return Segmentation(_rgb(image), classes, colours, labels.astype(kind))

    def _panoptic(self, image: np.ndarray, segments: np.ndarray) -> Segmentation:
        """segments: (H, W), label + THINGS * number; the label after the last class
        is that of pixels without a segment."""
        count = self.model.panoptic_fusion_head.num_classes
        classes, colours = self._names(count)
        whole = self._segmentation(image, segments % THINGS)
        return whole._replace(
            classes=(*classes[:count], NOTHING),
            colours=[*colours[:count], GREY],
            segments=segments,
        )

    def _names(self, count: int) -> tuple[Sequence[str], list[tuple[int, int, int]]]:
        """Names and colours of at least this many labels."""
        names = [*self.classes]
        names += [f'class {i}' for i in range(len(names), count)]
        colours = self.colours
        if len(colours) < len(names):
            colours = class_colours(names)
        return tuple(names), colours


def _load_weights(model: nn.Module, cfg: Config, checkpoint: str) -> dict:
    """Load all of the weights or none; what the file says of its data's classes."""
    loading.use_safe_loading()
    if checkpoint == 'official':
        checkpoint = released.of_config(cfg)
    content = loading.read_checkpoint(checkpoint)
    loading.refuse_official(content)
    try:
        weights = unwrap(content)
    except ValueError as error:
        raise UserError(f'{checkpoint}: {error}') from error
    report = loading.fit_of(weights, model)
    if any(report):
        raise UserError(
            f'{checkpoint} does not fit the {type(model).__name__} of the config: '
            f'{report}. Use the config that the checkpoint was trained with'
        )
    model.load_state_dict(weights, strict=False)
    meta = (content.get('meta') or {}).get('dataset_meta') or {}
    return {key.lower(): value for key, value in meta.items() if value is not None}


def meta_of(dataset: Mapping) -> dict:
    """Classes and colours as the dataset of a config has them.

    Without colours of these classes there are none.
    """
    given = dict(dataset.get('metainfo') or {})
    if isinstance(given.get('classes'), str):  # a file of names
        given['classes'] = names_in(given['classes'], 'dataset')
    kind = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    own = dict(getattr(kind, 'METAINFO', {}))
    if 'classes' in given and 'palette' not in given:
        own.pop('palette', None)  # that of other classes
    return {**own, **given}


def _device(device: str | torch.device | None) -> torch.device:
    try:
        found = torch.device(device or get_device())
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f'the device {device} cannot be used ({first}); there are cpu'
            + ''.join(f', cuda:{i}' for i in range(torch.cuda.device_count()))
        ) from error
    return found


def _rgb(image: np.ndarray) -> np.ndarray:
    """A picture as it was read, for drawing: (H, W, 3) uint8."""
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] != 3:
        image = np.repeat(image[..., :1], 3, axis=2)
    if image.dtype != np.uint8:
        top = max(float(image.max()), 1.0)
        image = np.rint(image * (255 / top if top > 255 else 1)).astype(np.uint8)
    return np.ascontiguousarray(image[..., ::-1])


def _labels(maps: Tensor) -> np.ndarray:
    """(1, H, W) -> (H, W)."""
    return _numbers(maps).squeeze(0)


def _numbers(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    values = values.float() if values.is_floating_point() else values
    return values.detach().cpu().numpy()


def _encoded(masks: object, order: Sequence[int]) -> Iterator[dict]:
    """Masks of any form that mmdet has, as run-length encodings."""
    if hasattr(masks, 'to_ndarray'):  # BitmapMasks, PolygonMasks
        masks = masks.to_ndarray()
    for index in order:
        mask = masks[index]
        if isinstance(mask, Mapping):
            yield dict(mask)
        else:
            bits = _numbers(mask).astype(np.uint8)
            yield coco_mask.encode(np.asfortranarray(bits))
