"""The truth of a picture and what a model found in it, drawn beside each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from mmssm.openmmlab.prediction import Predictor, Segmentation, drawing
from mmssm.openmmlab.reporting.evaluating import Outcome
from mmssm.openmmlab.reporting.sheets import Tile, beside
from mmssm.openmmlab.reporting.truth import Objects, Regions, Truths

LONGEST = 640  # pixels of the longer side of a picture on a sheet
GREY, WHITE, WRONG = (128, 128, 128), (255, 255, 255), (230, 40, 40)
PALE = 0.35  # share of the picture that is left under its mistakes


def tiles(
    model: Predictor, truths: Truths, outcomes: Sequence[Outcome], score: float = 0.3
) -> list[Tile]:
    """A tile for each outcome: truth, prediction and, of pixels, the mistakes."""
    return [_tile(model, truths, outcome, score) for outcome in outcomes]


def _tile(model: Predictor, truths: Truths, outcome: Outcome, score: float) -> Tile:
    found = model(outcome.path, score=score)
    truth, legend = truths[outcome.index], ()
    if isinstance(truth, Objects):
        image, classes, colours = found[:3]
        real = draw_objects(truth, image, classes, colours)
        drawn = [real, found.draw(LONGEST)]
    else:
        known, names, colours = with_ignored(truth.labels, found.classes, found.colours)
        both = np.stack([known, found.labels.astype(known.dtype)])
        legend = [(n, c) for n, _, c in drawing.shares(both, names, colours)]
        pictures = [drawing.coloured(found.image, m, colours, LONGEST) for m in both]
        drawn = [*pictures, draw_mistakes(truth, found)]
    measure = truths.measure
    words = f'{measure} {outcome.score:.2f} · {outcome.about}'
    if outcome.loss is not None:
        words += f' · loss {outcome.loss:.3g}'
    heads = 'truth | prediction' + ' | mistakes' * truths.of_pixels
    name = Path(outcome.path).name
    return Tile(beside(drawn), (f'{name} · {heads}', words), legend)


def draw_objects(
    truth: Objects,
    image: np.ndarray,
    classes: Sequence[str],
    colours: Sequence[drawing.Colour],
) -> np.ndarray:
    """Objects with their names; ignored ones are grey."""
    pairs = list(zip(truth.labels, truth.ignored, strict=True))
    names = [
        f'{classes[label]} (ignored)' if i else classes[label] for label, i in pairs
    ]
    tones = [GREY if i else colours[label] for label, i in pairs]
    masks = None
    if truth.masks:
        masks = coco_mask.decode(truth.masks).astype(bool).transpose(2, 0, 1)
    return drawing.objects(image, truth.boxes, names, tones, masks, LONGEST)


def with_ignored(
    labels: np.ndarray, classes: Sequence[str], colours: Sequence[drawing.Colour]
) -> tuple[np.ndarray, list[str], list[drawing.Colour]]:
    """Labels, names and colours with a last class for what no class has, in white."""
    count = len(classes)
    known = np.where((labels >= 0) & (labels < count), labels, count)
    return known, [*classes, 'ignored'], [*colours[:count], WHITE]


def draw_mistakes(truth: Regions, found: Segmentation) -> np.ndarray:
    """The picture, pale, with the pixels in red that have another class."""
    counted = (truth.labels >= 0) & (truth.labels < len(found.classes))
    wrong = counted & (truth.labels != found.labels)
    pale = 255 - PALE * (255 - found.image.astype(np.float32))
    pale[wrong] = WRONG
    return np.rint(pale).astype(np.uint8)
