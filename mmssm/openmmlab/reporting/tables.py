"""Numbers for each class and for all of them: AP and AR of objects, IoU of pixels."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmssm.openmmlab.prediction import Detections
from mmssm.openmmlab.reporting.truth import Objects

DETECTIONS = (100, 300, 1000)  # most objects of a picture that count, as in mmdet
AREAS = ('all', 'small', 'medium', 'large')
KINDS = {'bbox': 'boxes', 'segm': 'masks'}
AT_50, AT_75 = 0, 5  # of the ten thresholds of the IoU
Row = dict[str, object]


class ObjectTable:
    """AP and AR, by pycocotools, of the pictures that it has been given."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self._images, self._real, self._found = [], [], []
        self._masks = True

    def add(self, truth: Objects, found: Detections) -> None:
        """found: all that the model found, however uncertain."""
        number = len(self._images) + 1
        height, width = found.image.shape[:2]
        self._images.append({'id': number, 'height': height, 'width': width})
        self._found += [
            {**entry, 'score': float(score)}
            for entry, score in zip(
                _entries(number, found.boxes, found.labels, found.masks),
                found.scores,
                strict=True,
            )
        ]
        added = _entries(number, truth.boxes, truth.labels, truth.masks)
        for entry, ignored in zip(added, truth.ignored, strict=True):
            entry['iscrowd'] = int(ignored)
        self._real += added
        for masks, count in (
            (truth.masks, len(truth.boxes)),
            (found.masks, len(found.boxes)),
        ):
            self._masks &= masks is not None or not count

    def result(self) -> tuple[dict[str, float | None], list[Row]]:
        """Overall numbers, and a row for each class.

        As COCO defines them: AP over IoU 0.50 to 0.95, at 0.50, at 0.75; AR with 100
        objects in a picture.  None where the truth has no object of the class.
        """
        rows = [{'class': name} for name in self.classes]
        counts = np.zeros(len(rows), int)
        for entry in self._real:
            counts[entry['category_id'] - 1] += not entry['iscrowd']
        for row, count in zip(rows, counts, strict=True):
            row['objects'] = int(count)
        overall: dict[str, float | None] = {}
        for kind in ('bbox', 'segm') if self._masks else ('bbox',):
            self._measure(kind, overall, rows)
        return overall, rows

    def _measure(self, kind: str, overall: dict, rows: list[Row]) -> None:
        precision, recall = self._evaluated(kind)
        name = KINDS[kind]
        for suffix, part in (
            ('AP', precision[..., 0, -1]),
            ('AP50', precision[AT_50, ..., 0, -1]),
            ('AP75', precision[AT_75, ..., 0, -1]),
            ('AR', recall[..., 0, 0]),
        ):
            overall[f'{name} {suffix}'] = _mean(part)
            for index, row in enumerate(rows):
                row[f'{name} {suffix}'] = _mean(part[..., index])
        for index, area in enumerate(AREAS[1:], 1):
            overall[f'{name} AP {area}'] = _mean(precision[..., index, -1])

    def _evaluated(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Precision (IoU, recall, class, area, most) and recall, without the second."""
        categories = [{'id': i + 1, 'name': n} for i, n in enumerate(self.classes)]
        shared = {'images': self._images, 'categories': categories}
        real, found = COCO(), COCO()
        # truth by the area of its masks where it has some, what was found by what is
        # compared, as COCO's tools do it
        real.dataset = {**shared, 'annotations': _numbered(self._real, 'segm')}
        found.dataset = {**shared, 'annotations': _numbered(self._found, kind)}
        with contextlib.redirect_stdout(io.StringIO()):
            real.createIndex()
            found.createIndex()
            evaluation = COCOeval(real, found, kind)
            evaluation.params.maxDets = list(DETECTIONS)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval['precision'], evaluation.eval['recall']


def _entries(
    number: int, boxes: np.ndarray, labels: np.ndarray, masks: Sequence[dict] | None
) -> list[dict]:
    """Annotations of a picture as COCO has them, without id and area."""
    found = []
    for index, (box, label) in enumerate(zip(boxes.tolist(), labels, strict=True)):
        left, top, right, bottom = box
        entry = {
            'image_id': number,
            'category_id': int(label) + 1,
            'bbox': [left, top, right - left, bottom - top],
            'iscrowd': 0,
        }
        if masks is not None:
            entry['segmentation'] = masks[index]
        found.append(entry)
    return found


def _numbered(entries: Sequence[dict], kind: str) -> list[dict]:
    """With ids, and areas of the masks for 'segm', else of the boxes."""
    return [
        {**entry, 'id': number, 'area': _area(entry, kind)}
        for number, entry in enumerate(entries, 1)
    ]


def _area(entry: dict, kind: str) -> float:
    if kind == 'segm' and 'segmentation' in entry:
        return float(coco_mask.area(entry['segmentation']))
    return entry['bbox'][2] * entry['bbox'][3]


class RegionTable:
    """Counts of pixels by (real, found) class."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.counts = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, real: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Count the pixels of a picture, (H, W) both; returns its counts.

        Pixels whose real label no class has are left out.
        """
        counts = pixel_counts(real, found, len(self.classes))
        self.counts += counts
        return counts

    def result(self) -> tuple[dict[str, float | None], list[Row]]:
        """Overall numbers, and a row for each class, all in [0, 1]; None: no pixel."""
        numbers = region_numbers(self.counts)
        share = self.counts.sum(1) / max(self.counts.sum(), 1)
        rows = [
            {
                'class': name,
                'share': float(share[index]),
                **{key: _number(values[index]) for key, values in numbers.items()},
            }
            for index, name in enumerate(self.classes)
        ]
        right = np.trace(self.counts)
        overall = {'aAcc': float(right / max(self.counts.sum(), 1))}
        for key, values in numbers.items():
            overall[f'm{key}'] = _mean(values)
        return overall, rows


def pixel_counts(real: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes): how many pixels of each real class were found as each."""
    valid = (real >= 0) & (real < classes)
    pairs = real[valid] * classes + found[valid].astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def region_numbers(counts: np.ndarray) -> dict[str, np.ndarray]:
    """IoU, accuracy (recall) and precision of each class; nan where undefined."""
    right = np.diag(counts).astype(float)
    real, found = counts.sum(1), counts.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return {
            'IoU': right / (real + found - right),
            'Acc': right / real,
            'Precision': right / found,
        }


def _mean(values: np.ndarray) -> float | None:
    """Over those that are defined: pycocotools writes -1 for the others."""
    known = values[np.isfinite(values) & (values > -1)]
    return float(known.mean()) if known.size else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
