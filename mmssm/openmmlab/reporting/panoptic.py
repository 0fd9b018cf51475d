"""Panoptic quality of each class, and the confusion of pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmssm.openmmlab.prediction.results import THINGS, Segmentation
from mmssm.openmmlab.reporting.segments import VOID, Segments
from mmssm.openmmlab.reporting.tables import Row, pixel_counts, region_numbers


class Quality(NamedTuple):
    """Sums over segments, for each class.

    overlap: IoU of the pairs, (classes,).  pairs, invented, missed: their numbers.
    """

    overlap: np.ndarray
    pairs: np.ndarray
    invented: np.ndarray
    missed: np.ndarray

    def numbers(self) -> dict[str, np.ndarray]:
        """Panoptic, segmentation and recognition quality; nan: no segment.

            PQ = SQ RQ = sum of IoU / (pairs + (invented + missed) / 2)
        (Kirillov et al., arXiv 1801.00868, equation 1.)
        """
        half = self.pairs + (self.invented + self.missed) / 2
        with np.errstate(invalid='ignore'):
            return {
                'PQ': self.overlap / half,
                'SQ': self.overlap / self.pairs,
                'RQ': self.pairs / half,
            }


def quality(truth: Segments, found: np.ndarray, classes: int) -> Quality:
    """Real and found segments that are one: same class and IoU above 0.5.

    found: (H, W), label + THINGS * number; a label from `classes` on is none.
    Pixels without a real segment are left out of found ones, and found ones are not
    invented if more than half of them is without one, or in a crowd of their class.
    """
    real_ids, real = np.unique(truth.ids, return_inverse=True)
    found_ids, there = np.unique(found, return_inverse=True)
    shape = len(real_ids), len(found_ids)
    shared = np.bincount(
        real.ravel() * shape[1] + there.ravel(), minlength=shape[0] * shape[1]
    ).reshape(shape)
    real_class = np.array([truth.classes.get(int(i), VOID) for i in real_ids])
    crowd = np.array([int(i) in truth.crowds for i in real_ids])
    found_class = found_ids % THINGS
    same = real_class[:, None] == found_class
    unknown = shared[real_class == VOID].sum(0)
    union = shared.sum(1)[:, None] + shared.sum(0) - shared - unknown
    overlap = np.where(same & ~crowd[:, None], shared / np.maximum(union, 1), 0)
    pairs = overlap > 0.5
    missed = ~pairs.any(1) & ~crowd & (real_class != VOID)
    excused = unknown + (shared * (same & crowd[:, None])).sum(0)
    invented = ~pairs.any(0) & (found_class < classes)
    invented &= 2 * excused <= shared.sum(0)

    def count(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(labels, weights, minlength=classes)

    rows, columns = np.nonzero(pairs)
    return Quality(
        count(real_class[rows], overlap[rows, columns]),
        count(real_class[rows]),
        count(found_class[invented]),
        count(real_class[missed]),
    )


class PanopticTable:
    """Qualities of segments, and counts of pixels, of the pictures that it was given.

    counts: pixels by (real, found) class, the last column for no segment.
    """

    def __init__(self, classes: Sequence[str], things: int) -> None:
        self.classes, self.things = classes, things
        count = len(classes)
        self.counts = np.zeros((count + 1, count + 1), np.int64)
        self._sums = Quality(*np.zeros((4, count)))

    def add(self, truth: Segments, found: Segmentation) -> tuple[Quality, np.ndarray]:
        """Returns what it adds."""
        count = len(self.classes)
        sums = quality(truth, found.segments, count)
        self._sums = Quality(*(a + b for a, b in zip(self._sums, sums, strict=True)))
        labels = np.minimum(found.segments % THINGS, count)
        counts = pixel_counts(truth.labels, labels, count + 1)
        self.counts += counts
        return sums, counts

    def result(self) -> tuple[dict[str, float | None], list[Row]]:
        """Overall numbers, and a row for each class, all in [0, 1]; None: undefined."""
        numbers = self._sums.numbers()
        numbers['IoU'] = region_numbers(self.counts)['IoU'][:-1]
        real = (self._sums.pairs + self._sums.missed).astype(int)
        rows = [
            {
                'class': name,
                'kind': 'thing' if index < self.things else 'stuff',
                'segments': int(real[index]),
                **{key: mean(values[index]) for key, values in numbers.items()},
            }
            for index, name in enumerate(self.classes)
        ]
        overall = {key: mean(numbers[key]) for key in ('PQ', 'SQ', 'RQ')}
        overall['PQ of things'] = mean(numbers['PQ'][: self.things])
        overall['PQ of stuff'] = mean(numbers['PQ'][self.things :])
        overall['mIoU'] = mean(numbers['IoU'])
        return overall, rows


def mean(values: np.ndarray) -> float | None:
    """Over those that are numbers."""
    known = np.atleast_1d(values)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else None
