"""What a model found in a picture, and the files that it can become."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mmssm.openmmlab.prediction import drawing
from mmssm.weights import write_whole

THINGS = 1000  # panoptic maps of mmdet hold label + 1000 * number of the object
NOTHING = 'no segment'  # the last class of panoptic maps, for the rest of the picture


class Detections(NamedTuple):
    """Objects of a picture, the most certain first.

    image: (H, W, 3) uint8, RGB.  classes: names by label.  colours: RGB by label.
    boxes: (N, 4) float32, left, top, right, bottom in pixels.  scores: (N,) in [0, 1].
    labels: (N,) int.  masks: N run-length encodings of COCO, or None without masks.
    """

    image: np.ndarray
    classes: Sequence[str]
    colours: Sequence[tuple[int, int, int]]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict] | None = None

    def above(self, score: float) -> 'Detections':
        """Those with at least this score."""
        return self.only(np.flatnonzero(self.scores >= score))

    def only(self, kept: np.ndarray) -> 'Detections':
        """Those with these indices, in this order."""
        masks = None if self.masks is None else [self.masks[i] for i in kept]
        boxes, scores = self.boxes[kept], self.scores[kept]
        return self._replace(
            boxes=boxes, scores=scores, labels=self.labels[kept], masks=masks
        )

    def bitmaps(self) -> np.ndarray | None:
        """The masks as (N, H, W) bool."""
        if self.masks is None:
            return None
        if not self.masks:
            return np.zeros((0, *self.image.shape[:2]), bool)
        return coco_mask.decode(self.masks).astype(bool).transpose(2, 0, 1)

    def draw(self, longest: int | None = None) -> np.ndarray:
        """The picture with outlines and names, (H', W', 3) uint8 RGB.

        longest: pixels of the longer side that a larger picture is reduced to.
        """
        names = [
            f'{self.classes[label]} {score:.2f}'.replace(' 0.', ' .')
            for label, score in zip(self.labels, self.scores, strict=True)
        ]
        colours = [self.colours[label] for label in self.labels]
        return drawing.objects(
            self.image, self.boxes, names, colours, self.bitmaps(), longest
        )

    def save(self, path: str | Path) -> None:
        """Write `draw()` as a picture, in the format of the path's suffix."""
        write_picture(path, self.draw())

    def to_coco(self, image_id: int = 0, first: int = 1) -> list[dict]:
        """Annotations of a COCO file, with scores; label i has the category i + 1.

        first: id of the first annotation.
        """
        found = []
        for index, (box, score, label) in enumerate(
            zip(self.boxes.tolist(), self.scores, self.labels, strict=True)
        ):
            left, top, right, bottom = box
            entry = {
                'id': first + index,
                'image_id': image_id,
                'category_id': int(label) + 1,
                'bbox': [round(v, 3) for v in (left, top, right - left, bottom - top)],
                'area': round((right - left) * (bottom - top), 3),
                'score': round(float(score), 5),
                'iscrowd': 0,
            }
            if self.masks is not None:
                counts, size = (self.masks[index][key] for key in ('counts', 'size'))
                entry['segmentation'] = {'counts': counts.decode(), 'size': list(size)}
                entry['area'] = float(coco_mask.area(self.masks[index]))
            found.append(entry)
        return found


class Segmentation(NamedTuple):
    """The class of every pixel of a picture.

    image: (H, W, 3) uint8, RGB.  classes: names by label.  colours: RGB by label.
    labels: (H, W), uint8, or uint16 for more than 256 classes.
    segments: (H, W) int, label + THINGS * number, of panoptic models; else None.
    """

    image: np.ndarray
    classes: Sequence[str]
    colours: Sequence[tuple[int, int, int]]
    labels: np.ndarray
    segments: np.ndarray | None = None

    def shares(self) -> dict[str, float]:
        """Share of the picture that each class has, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind='stable')
        size = self.labels.size
        return {self.classes[i]: counts[i] / size for i in order if counts[i]}

    def draw(self) -> np.ndarray:
        """The picture under the colours of its classes, with a legend below."""
        return drawing.regions(self.image, self.labels, self.classes, self.colours)

    def save(self, path: str | Path) -> None:
        """Write `draw()` as a picture, in the format of the path's suffix."""
        write_picture(path, self.draw())

    def save_labels(self, path: str | Path) -> None:
        """Write the labels as a PNG of one channel, the value of a pixel its class."""
        if Path(path).suffix.lower() != '.png':
            raise ValueError(f'{path}: labels are kept whole by .png alone')
        write_picture(path, self.labels)


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) RGB or (H, W) as a picture, whole or not at all.

    Raises ValueError for a suffix that no format has.
    """
    path = Path(path)
    if picture.ndim == 3:
        picture = picture[..., ::-1]
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    try:
        done, content = cv2.imencode(path.suffix, picture, options)
    except cv2.error as error:
        raise ValueError(
            f'{path} ends in {path.suffix!r}; expected .jpg, .png or another format '
            'of pictures'
        ) from error
    if not done:
        raise ValueError(f'{path}: the picture cannot be written as {path.suffix!r}')
    write_whole(path, content.tobytes())
