"""A model on the pictures of a config's data: confusions, tables, a score for each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Detections, Predictor, Segmentation
from mmssm.openmmlab.prediction.results import NOTHING
from mmssm.openmmlab.reporting.matching import Matches, match
from mmssm.openmmlab.reporting.panoptic import PanopticTable, mean
from mmssm.openmmlab.reporting.tables import (
    ObjectTable,
    RegionTable,
    Row,
    region_numbers,
)
from mmssm.openmmlab.reporting.truth import Truth, Truths

BACKGROUND = 'background'


class Outcome(NamedTuple):
    """How a model did on a picture.

    index: of the picture in its Truths.  score: F1 of the objects, or mean IoU or PQ
    of the classes in truth or prediction.  wrong: how many objects were missed or
    invented or of another class, or pixels of another class.  about: the same in words.
    loss: None where it was not asked for; nan where it is not finite.
    """

    index: int
    path: str
    score: float
    wrong: int
    about: str
    loss: float | None = None


class Evaluation(NamedTuple):
    """How a model did on all pictures.

    labels: names of the confusion's rows, the truth, and columns, what was found.
    confusion: counts of objects (the last row: invented; the last column: missed) or of
    pixels.  overall: numbers for all classes.  rows: those for each class.
    outcomes: one for each picture.
    """

    labels: tuple[str, ...]
    confusion: np.ndarray
    overall: dict[str, float | None]
    rows: list[Row]
    outcomes: list[Outcome]


Progress = Callable[[Sequence[int]], Iterable[int]]
Loss = Callable[[int], float]


def evaluate(
    model: Predictor,
    truths: Truths,
    *,
    score: float = 0.3,
    batch: int = 1,
    most: int | None = None,
    loss: Loss | None = None,
    progress: Progress = iter,
) -> Evaluation:
    """Predict on all pictures, and compare with the truth.

    score: objects below it count in the tables alone, not in the confusions.
    most: number of pictures, evenly spread; None: all.  loss: of a picture's index.
    Raises UserError where model and data have different numbers of classes, and for
    pictures that cannot be read.
    """
    check_fit(model, truths)
    collector = _collector(truths, score)
    chosen = spread(len(truths), most)
    groups = [chosen[i : i + batch] for i in range(0, len(chosen), batch)]
    outcomes = []
    for place in progress(range(len(groups))):
        group = groups[place]
        found = model(
            [truths.pictures[i].path for i in group], score=0.0, batch=len(group)
        )
        for index, result in zip(group, found, strict=True):
            path = truths.pictures[index].path
            outcome = collector.add(truths[index], result)._replace(
                index=index, path=path
            )
            if loss is not None:
                outcome = outcome._replace(loss=loss(index))
            outcomes.append(outcome)
    overall, rows = collector.table.result()
    return Evaluation(collector.labels, collector.confusion(), overall, rows, outcomes)


def spread(count: int, most: int | None) -> list[int]:
    """Indices of at most `most` of `count` pictures, evenly spread."""
    if most is None or most >= count:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, most).round()]


def check_fit(model: Predictor, truths: Truths) -> None:
    """Raise UserError where model and data do not belong together."""
    if model.scope != truths.scope:
        raise UserError(f'the model is of {model.scope}, the data of {truths.scope}')
    known, there = len(model.classes), len(truths.classes)
    if known and known != there:
        raise UserError(
            f'the checkpoint knows {known} classes ({_some(model.classes)}) and '
            f'{truths.key} has {there} ({_some(truths.classes)}): give the config and '
            'the checkpoint of one training'
        )


def worst(
    outcomes: Sequence[Outcome], count: int, by: str = 'score'
) -> Iterator[Outcome]:
    """The worst first.  by: 'score' or 'loss', of which one that is not finite leads.

    Of the same score the one with more mistakes comes first.
    """

    def by_loss(outcome: Outcome) -> float:
        return -outcome.loss if np.isfinite(outcome.loss) else -np.inf

    def by_score(outcome: Outcome) -> tuple[float, int]:
        return outcome.score, -outcome.wrong

    yield from sorted(outcomes, key=by_loss if by == 'loss' else by_score)[:count]


def _collector(truths: Truths, score: float) -> '_Objects | _Regions | _Segments':
    if truths.things is not None:
        return _Segments(truths)
    return _Regions(truths) if truths.of_pixels else _Objects(truths, score)


class _Objects:
    def __init__(self, truths: Truths, score: float) -> None:
        self.labels = (*truths.classes, BACKGROUND)
        self.table = ObjectTable(truths.classes)
        self._score = score
        self._counts = np.zeros((len(self.labels), len(self.labels)), np.int64)

    def add(self, truth: Truth, found: Detections) -> Outcome:
        if not isinstance(found, Detections):
            raise UserError(
                'the model gives the class of every pixel, the data has objects; name '
                'the data that it was trained on (CocoPanopticDataset)'
            )
        self.table.add(truth, found)
        matches = matches_of(truth, found.above(self._score))
        np.add.at(self._counts, tuple(matches.pairs.T), 1)
        np.add.at(self._counts, (matches.missed, -1), 1)
        np.add.at(self._counts, (-1, matches.invented), 1)
        confused = len(matches.pairs) - matches.right()
        missed, invented = len(matches.missed), len(matches.invented)
        parts = ((missed, 'missed'), (invented, 'invented'), (confused, 'confused'))
        told = ', '.join(f'{n} {word}' for n, word in parts if n) or 'all right'
        return Outcome(-1, '', matches.f1(), missed + invented + confused, told)

    def confusion(self) -> np.ndarray:
        return self._counts


class _Regions:
    def __init__(self, truths: Truths) -> None:
        self.labels = truths.classes
        self.table = RegionTable(truths.classes)

    def add(self, truth: Truth, found: Segmentation) -> Outcome:
        _check_sizes(truth, found)
        counts = self.table.add(truth.labels, found.labels)
        values = region_numbers(counts)['IoU']
        known = values[np.isfinite(values)]
        mean = float(known.mean()) if known.size else 1.0
        total, right = int(counts.sum()), int(np.trace(counts))
        share = 100 * (total - right) / max(total, 1)
        return Outcome(-1, '', mean, total - right, f'{share:.1f} % of pixels wrong')

    def confusion(self) -> np.ndarray:
        return self.table.counts


class _Segments:
    def __init__(self, truths: Truths) -> None:
        self.labels = (*truths.classes, NOTHING)
        self.table = PanopticTable(truths.classes, truths.things)

    def add(self, truth: Truth, found: Segmentation | Detections) -> Outcome:
        if getattr(found, 'segments', None) is None:
            raise UserError(
                'the data is panoptic, and the model gives no panoptic map; expected '
                'one such as PanopticFPN, or Mask2Former with panoptic_on=True'
            )
        _check_sizes(truth, found)
        sums, counts = self.table.add(truth, found)
        score = mean(sums.numbers()['PQ'])
        total, right = int(counts.sum()), int(np.trace(counts))
        missed, invented = int(sums.missed.sum()), int(sums.invented.sum())
        share = 100 * (total - right) / max(total, 1)
        told = f'{missed} missed, {invented} invented, {share:.1f} % of pixels wrong'
        return Outcome(-1, '', 1.0 if score is None else score, total - right, told)

    def confusion(self) -> np.ndarray:
        return self.table.counts


def _check_sizes(truth: Truth, found: Segmentation) -> None:
    if truth.labels.shape != found.labels.shape:
        raise UserError(
            f'a picture is {found.labels.shape} and its label map '
            f'{truth.labels.shape}; mmssm-check-data CONFIG names such pictures'
        )


def matches_of(truth: Truth, found: Detections) -> Matches:
    """Objects of a picture against what was found in it."""
    return match(found.boxes, found.labels, truth.boxes, truth.labels, truth.ignored)


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:4]) + ', …' * (len(names) > 4)
