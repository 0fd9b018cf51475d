"""Heat over a picture: what spoke for the answers of a detector or segmenter.

Computed here and not by the package pytorch-grad-cam: on import that wants torchvision,
which does not load beside a torch of another build and then stops mmengine too,
scikit-learn and SciPy; its scores know classifiers, and boxes, masks and pixels of
OpenMMLab have to be reached in any case.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.analysis import cam
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction.model import Predictor


class Answer(NamedTuple):
    """Something that a model says of a picture, and the number behind it.

    kind: 'box', 'mask', 'class' or 'pixel'.  region: (H, W), where it is.
    """

    kind: str
    name: str
    score: Tensor
    region: Tensor
    outline: tuple[float, float, float, float] | None = None


class Found(NamedTuple):
    """A picture (3, H, W), 0 to 1, the prediction drawn, and heat over it.

    heats: method -> heat of each answer.  eigen: Eigen-CAM.  All (H, W), at most 1.
    """

    image: Tensor
    drawn: Tensor
    answers: list[Answer]
    heats: dict[str, list[Tensor]]
    eigen: Tensor


class _Seen:
    """What backbone and mask head gave."""

    def __init__(self) -> None:
        self.calls = 0
        self.maps: list[Tensor] = []
        self.size = (0, 0)
        self.masks: Tensor | None = None

    def backbone(self, _: nn.Module, given: tuple, maps: object) -> None:
        self.calls += 1
        self.maps = [maps] if isinstance(maps, Tensor) else list(maps)
        self.size = tuple(given[0].shape[2:])

    def mask_head(self, _: nn.Module, given: tuple, masks: Tensor) -> None:
        self.masks = masks


def look(
    model: Predictor,
    picture: str,
    *,
    score: float = 0.3,
    count: int = 3,
    methods: Sequence[str] = cam.METHODS,
    levels: Sequence[int] | None = None,
    spots: Sequence[Sequence[float]] = (),
) -> Found:
    """Heat of the surest objects or the largest classes, and Eigen-CAM of the maps.

    score: objects below it are left out.  count: at most so many objects or classes.
    levels: which maps of the backbone, by default all, averaged.
    spots: (down, right) as parts of the picture; pixels of a segmenter.

    Raises UserError for a model whose answers do not lead back to its backbone, and
    where nothing was found.
    """
    with _watching(model.model) as seen:
        image, sample = model.with_gradients(picture)
    if seen.calls != 1:
        raise UserError(
            f'the backbone ran {seen.calls} times for one picture; expected once: look '
            'at it whole with --cfg-options model.test_cfg.mode=whole'
        )
    maps = _chosen(seen.maps, levels)
    size = tuple(image.shape[:2])
    if 'pred_instances' in sample:
        answers = _objects(model, sample, seen.masks, size, score, count)
    else:
        answers = _classes(model, sample, size, count, spots)
    if not answers:
        raise UserError(
            f'nothing was found in {picture} with a score of at least {score}; try '
            'a lower --score'
        )
    shape = tuple(sample.metainfo['img_shape'][:2])

    def over(cams: Sequence[Tensor]) -> Tensor:
        return _over(cams, seen.size, shape, size)

    heats = {
        method: [over(_heat(model, maps, answer, method)) for answer in answers]
        for method in methods
    }
    drawn = model(picture, score=score).draw()
    drawn = drawn[: round(drawn.shape[1] * size[0] / size[1])]  # without a legend
    eigen = over([cam.eigen_cam(values) for values in maps])
    return Found(_picture(image), _picture(drawn), answers, heats, eigen)


def _heat(
    model: Predictor, maps: Sequence[Tensor], answer: Answer, method: str
) -> list[Tensor]:
    try:
        return cam.gradient_cams(maps, answer.score, method)
    except ValueError as error:
        raise UserError(
            f'{type(model.model).__name__}, {answer.kind} of {answer.name}: {error}'
        ) from error


def panels(found: Found, title: str) -> list[tuple[str, list[cam.Panel | None]]]:
    """A row for each kind of answer and method; prediction and Eigen-CAM first."""
    left = [
        cam.Panel(title, image=found.drawn, note='prediction'),
        cam.Panel('Eigen-CAM', found.eigen, note='no class, no gradient'),
    ]
    rows = []
    for kind in dict.fromkeys(answer.kind for answer in found.answers):
        for method, heats in found.heats.items():
            row = [
                cam.Panel(answer.name, heat, answer.outline, _note(answer, heat))
                for answer, heat in zip(found.answers, heats, strict=True)
                if answer.kind == kind
            ]
            rows.append((f'{kind}: {method}', [left.pop(0) if left else None, *row]))
    if left and rows:  # one row only
        rows[0][1].append(left.pop())
    return rows


def _note(answer: Answer, heat: Tensor) -> str:
    inside, area = cam.share_inside(heat, answer.region), _area(answer)
    return f'{inside:.0%} of the heat on {area:.0%}'


def _area(answer: Answer) -> float:
    """Its part of the picture."""
    return answer.region.double().mean().item()


def numbers(found: Found) -> list[dict[str, object]]:
    """Of each answer its score, its part of the picture and of each kind of heat."""
    return [
        {
            'kind': answer.kind,
            'name': answer.name,
            'score': answer.score.item(),
            'share_of_picture': _area(answer),
            'share_of_heat': {
                method: cam.share_inside(heats[index], answer.region)
                for method, heats in found.heats.items()
            },
        }
        for index, answer in enumerate(found.answers)
    ]


@contextmanager
def _watching(model: nn.Module) -> Iterator[_Seen]:
    """Look at what the backbone, and a mask head where there is one, give."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise UserError(f'{type(model).__name__} has no backbone')
    seen = _Seen()
    handles = [backbone.register_forward_hook(seen.backbone)]
    head = getattr(getattr(model, 'roi_head', None), 'mask_head', None)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    if head is not None:
        handles.append(head.register_forward_hook(seen.mask_head))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _chosen(maps: list[Tensor], levels: Sequence[int] | None) -> list[Tensor]:
    if levels is None:
        return maps
    wrong = [n for n in levels if not 1 <= n <= len(maps)]
    if wrong:
        raise UserError(
            f'--levels has {wrong[0]}; the backbone gives maps 1 to {len(maps)}'
        )
    return [maps[n - 1] for n in levels]


def _objects(
    model: Predictor,
    sample: object,
    masks: Tensor | None,
    size: tuple[int, int],
    score: float,
    count: int,
) -> list[Answer]:
    """Boxes of the surest objects, then their masks."""
    objects = sample.pred_instances
    order = objects.scores.argsort(descending=True)[:count].tolist()
    order = [i for i in order if objects.scores[i] >= score]
    boxes, found = [], []
    for index in order:
        label = int(objects.labels[index])
        name = f'{_name(model, label)} {objects.scores[index].item():.2f}'
        corners = objects.bboxes[index].detach().cpu()
        left, top, right, bottom = (
            getattr(corners, 'tensor', corners).flatten().tolist()
        )
        region = torch.zeros(size, dtype=torch.bool)
        region[
            max(round(top), 0) : round(bottom), max(round(left), 0) : round(right)
        ] = 1
        outline = (top, left, bottom - top, right - left)
        boxes.append(Answer('box', name, objects.scores[index], region, outline))
        if masks is not None and 'masks' in objects and len(masks) == len(objects):
            logits = masks[index, label if masks.shape[1] > 1 else 0]
            inside = logits[logits.detach() > 0]
            shape = torch.as_tensor(objects.masks[index]).detach().cpu().bool()
            if len(inside):
                found.append(Answer('mask', name, inside.mean(), shape, outline))
    return boxes + found


def _classes(
    model: Predictor,
    sample: object,
    size: tuple[int, int],
    count: int,
    spots: Sequence[Sequence[float]],
) -> list[Answer]:
    """The classes that cover most, then the pixels that were asked for."""
    if 'seg_logits' not in sample:
        raise UserError(
            f'{type(model.model).__name__} gives neither boxes nor logits of pixels'
        )
    logits = sample.seg_logits.data  # (classes, H, W)
    if len(logits) == 1:
        logits = torch.cat([-logits, logits])
    labels = logits.detach().argmax(0)
    areas = torch.bincount(labels.flatten(), minlength=len(logits))
    answers = []
    for label in areas.argsort(descending=True)[:count].tolist():
        region = labels == label
        if region.any():
            score = logits[label][region].mean()
            answers.append(Answer('class', _name(model, label), score, region.cpu()))
    for spot in spots:
        row, column = (int(p * n) for p, n in zip(spot, size, strict=True))
        label = int(labels[row, column])
        region = (labels == label).cpu()
        name = f'{_name(model, label)} at {row}, {column}'
        outline = (row - 1, column - 1, 3, 3)
        answers.append(
            Answer('pixel', name, logits[label, row, column], region, outline)
        )
    return answers


def _name(model: Predictor, label: int) -> str:
    return model.classes[label] if label < len(model.classes) else f'class {label}'


def _over(
    cams: Sequence[Tensor],
    padded: tuple[int, int],
    shape: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Heat at the size of the picture: without the padding, scaled back."""
    heat = cam.together(cams, padded)[: shape[0], : shape[1]]
    heat = F.interpolate(heat[None, None], size, mode='bilinear')[0, 0]
    return cam.scaled(heat)


def _picture(array: object) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W), 0 to 1."""
    return torch.tensor(array).permute(2, 0, 1).float() / 255
