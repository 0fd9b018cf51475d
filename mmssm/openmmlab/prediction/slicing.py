"""Large pictures in overlapping windows."""

import numpy as np
import torch
from mmcv.ops import batched_nms
from pycocotools import mask as coco_mask
from torch import Tensor

from mmssm.openmmlab.prediction.results import Detections

Window = tuple[int, int, int, int]  # top, left, bottom, right
IOU = 0.5  # boxes of one class that overlap by more are one object


def windows(height: int, width: int, size: int, overlap: float) -> list[Window]:
    """Windows that cover a picture, in rows, evenly spread.

    size: length of their sides in pixels.  overlap: share of a window, at least, that
    the next one covers too.
    Raises ValueError for a size below 1 and an overlap outside [0, 1).
    """
    if size < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f'slices of {size} pixels with overlap {overlap}; expected a size from 1 '
            'and an overlap in [0, 1), such as 640 and 0.2'
        )
    tops, lefts = (_starts(length, size, overlap) for length in (height, width))
    return [
        (top, left, min(top + size, height), min(left + size, width))
        for top in tops
        for left in lefts
    ]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    step = max(1, int(size * (1 - overlap)))
    gaps = max(0, -(-(length - size) // step))
    return [round(i * (length - size) / gaps) for i in range(gaps + 1)] if gaps else [0]


def merge_detections(
    whole: Detections, parts: list[tuple[Window, Detections]]
) -> Detections:
    """Objects of all windows in the places of the whole picture, once each.

    whole: gives picture and classes.  Where windows overlap, an object is found in
    several: of boxes of one class with an IoU above 0.5 the most certain stays.
    """
    size = whole.image.shape[:2]
    boxes = [p.boxes + np.float32([w[1], w[0], w[1], w[0]]) for w, p in parts]
    boxes = np.concatenate([whole.boxes[:0], *boxes])
    scores = np.concatenate([whole.scores[:0], *(p.scores for _, p in parts)])
    labels = np.concatenate([whole.labels[:0], *(p.labels for _, p in parts)])
    masks = None
    if any(p.masks is not None for _, p in parts):
        masks = [_moved(m, w, size) for w, p in parts for m in p.masks]
    found = whole._replace(boxes=boxes, scores=scores, labels=labels, masks=masks)
    if not len(boxes):
        return found
    settings = {'type': 'nms', 'iou_threshold': IOU}
    tensors = (torch.from_numpy(t) for t in (boxes, scores, labels))
    _, kept = batched_nms(*tensors, settings)
    return found.only(kept.numpy())


def _moved(mask: dict, window: Window, size: tuple[int, int]) -> dict:
    """A mask of a window as one of the whole picture."""
    top, left, bottom, right = window
    whole = np.zeros(size, np.uint8, order='F')
    whole[top:bottom, left:right] = coco_mask.decode(mask)
    return coco_mask.encode(whole)


class AveragedLabels:
    """Labels of a picture from the logits of windows, which come row by row.

    Logits are averaged where windows overlap.  Rows that no later window reaches are
    decided and forgotten, so that memory is that of one row of windows.
    """

    def __init__(self, height: int, width: int, threshold: float) -> None:
        """threshold: of the probability of label 1, where there is one channel."""
        self.threshold = threshold
        self.labels = np.zeros((height, width), np.int64)
        self._first = 0  # row of the picture that the sums begin with
        self._sums: Tensor | None = None
        self._counts = torch.zeros(0, width)

    def add(self, window: Window, logits: Tensor) -> None:
        """logits: (C, h, w) of a window, C = 1 for the probability of label 1."""
        top, left, bottom, right = window
        self._decide(top)
        width = self.labels.shape[1]
        missing = bottom - self._first - len(self._counts)
        if self._sums is None:
            self._sums = logits.new_zeros(len(logits), 0, width)
        if missing > 0:
            more = self._sums.new_zeros(len(logits), missing, width)
            self._sums = torch.cat([self._sums, more], 1)
            self._counts = torch.cat([self._counts, torch.zeros(missing, width)])
        rows = slice(top - self._first, bottom - self._first)
        self._sums[:, rows, left:right] += logits
        self._counts[rows, left:right] += 1

    def result(self) -> np.ndarray:
        """All labels, (H, W)."""
        self._decide(len(self.labels))
        return self.labels

    def _decide(self, end: int) -> None:
        """Decide the rows before `end`."""
        count = end - self._first
        if self._sums is None or count <= 0:
            return
        mean = self._sums[:, :count] / self._counts[:count].to(self._sums.device)
        found = mean[0] > self.threshold if len(mean) == 1 else mean.argmax(0)
        self.labels[self._first : end] = found.long().cpu().numpy()
        self._sums, self._counts = self._sums[:, count:], self._counts[count:]
        self._first = end
