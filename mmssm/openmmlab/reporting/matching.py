"""Which found object is which real one, and what the rest are."""

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

IOU = 0.5  # a found object is a real one if their boxes overlap by at least this
NOTHING, IGNORED = -1, -2


class Matches(NamedTuple):
    """labels of pairs, (P, 2): real, found.  missed: labels of real objects without a
    found one.  invented: labels of found objects without a real one.
    """

    pairs: np.ndarray
    missed: np.ndarray
    invented: np.ndarray

    def right(self) -> int:
        """Pairs of the same label."""
        return int((self.pairs[:, 0] == self.pairs[:, 1]).sum())

    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 where nothing is and nothing is found."""
        count = 2 * len(self.pairs) + len(self.missed) + len(self.invented)
        return 2 * self.right() / count if count else 1.0


def assign(boxes: np.ndarray, real: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Index of the real object of each found one.

    boxes: (N, 4), left, top, right, bottom, the most certain first.  real: (M, 4).
    ignored: (M,) bool.  In this order each found object takes the real one that it
    overlaps the most, of those that no other has taken, whatever the labels.
    Returns (N,): an index, NOTHING for an overlap with none by 0.5, IGNORED for one
    with an ignored object alone, which may be that of several.
    """
    found = np.full(len(boxes), NOTHING)
    if not len(boxes) or not len(real):
        return found
    overlaps = coco_mask.iou(_sized(boxes), _sized(real), ignored.astype(np.uint8))
    free = ~ignored
    for index, row in enumerate(overlaps):
        open_ones = np.where(free, row, -1.0)
        best = int(open_ones.argmax())
        if open_ones[best] >= IOU:
            found[index], free[best] = best, False
        elif (row[ignored] >= IOU).any():
            found[index] = IGNORED
    return found


def match(
    boxes: np.ndarray,
    labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
    ignored: np.ndarray,
) -> Matches:
    """Pairs and what is left over; ignored objects, and what is found on them, are not.

    See `assign`; labels: (N,), real_labels: (M,).
    """
    found = assign(boxes, real, ignored)
    paired = found >= 0
    missed = np.ones(len(real), bool) & ~ignored
    missed[found[paired]] = False
    pairs = np.stack([real_labels[found[paired]], labels[paired]], 1)
    return Matches(
        pairs.astype(np.int64), real_labels[missed], labels[found == NOTHING]
    )


def _sized(boxes: np.ndarray) -> np.ndarray:
    """Corners -> left, top, width, height."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
