"""Pictures with what was found on them, legible on small objects.

Outlines are thin and fills light, so that the picture stays as bright as it is; a name
stands outside of its box where there is room.  Small pictures are enlarged first.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
SHORTEST = 480  # pixels that the longer side of a drawn picture has at least
QUIET = (150, 150, 150)
FILL, REGION = 0.35, 0.5  # share of the colour in a mask, and in a labelled region


def distinct_colours(count: int) -> list[Colour]:
    """RGB colours, neighbours of which differ clearly: hues by the golden ratio."""
    hues = np.arange(count) * 0.618034 % 1
    saturation = np.where(np.arange(count) % 2, 0.95, 0.7)
    value = np.where(np.arange(count) // 2 % 2, 0.75, 0.98)
    colours = mpl.colors.hsv_to_rgb(np.stack([hues, saturation, value], -1))
    return [tuple(int(v) for v in colour) for colour in np.rint(255 * colours)]


def class_colours(names: Sequence[str]) -> list[Colour]:
    """Distinct ones, and a quiet grey for a class that is called background."""
    return [
        QUIET if name.lower() == 'background' else colour
        for name, colour in zip(names, distinct_colours(len(names)), strict=True)
    ]


def objects(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    colours: Sequence[Colour],
    masks: np.ndarray | None = None,
    longest: int | None = None,
) -> np.ndarray:
    """The picture with an outline and a name for each object.

    image: (H, W, 3) uint8 RGB.  boxes: (N, 4), left, top, right, bottom.
    masks: (N, H, W) bool.  longest: pixels of the longer side that a larger picture is
    reduced to before anything is drawn on it.
    Returns (s H, s W, 3), s = 1 but for small pictures and those that are reduced.
    """
    scale = _scale(image, longest)
    canvas = _scaled(image, scale)
    width = max(1, round(min(canvas.shape[:2]) / 500))
    if masks is not None:
        for mask, colour in zip(masks, colours, strict=True):
            _paint(canvas, mask, colour, scale, width)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    placed = [tuple(float(v) for v in box) for box in boxes * scale]
    for box, colour in zip(placed, colours, strict=True):
        draw.rectangle(box, outline=colour, width=width)
    taken = []
    for box, name, colour in zip(placed, names, colours, strict=True):
        _write(draw, picture.size, box, name, colour, taken)
    return np.asarray(picture)


def regions(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    colours: Sequence[Colour],
    longest: int | None = None,
) -> np.ndarray:
    """The picture under the colours of its labels, and a legend of those there are.

    image: (H, W, 3) uint8 RGB.  labels: (H, W).  longest: as of `objects`.
    Returns (H', W', 3).
    """
    canvas = coloured(image, labels, colours, longest)
    present = shares(labels, classes, colours)
    entries = [(f'{name} {100 * share:.0f} %', c) for name, share, c in present]
    return np.concatenate([canvas, legend(canvas.shape[1], entries)])


def coloured(
    image: np.ndarray,
    labels: np.ndarray,
    colours: Sequence[Colour],
    longest: int | None = None,
) -> np.ndarray:
    """`regions` without the legend."""
    scale = _scale(image, longest)
    canvas = _scaled(image, scale)
    large = _scaled(labels.astype(np.int32), scale, cv2.INTER_NEAREST)
    table = np.asarray(colours, np.float32)[large]
    canvas = np.rint((1 - REGION) * canvas + REGION * table).astype(np.uint8)
    edges = np.zeros(large.shape, bool)
    edges[1:] |= large[1:] != large[:-1]
    edges[:, 1:] |= large[:, 1:] != large[:, :-1]
    canvas[edges] = 255
    return canvas


def shares(
    labels: np.ndarray, classes: Sequence[str], colours: Sequence[Colour]
) -> list[tuple[str, float, Colour]]:
    """The classes that a picture has with their shares of it, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    present = [i for i in np.argsort(-counts, kind='stable') if counts[i]]
    return [(classes[i], float(counts[i] / labels.size), colours[i]) for i in present]


def _scale(image: np.ndarray, longest: int | None) -> float:
    side = max(image.shape[:2])
    if longest and side > longest:
        return longest / side
    return max(1, -(-SHORTEST // side))


def _scaled(
    array: np.ndarray, scale: float, interpolation: int | None = None
) -> np.ndarray:
    if scale == 1:
        return array.copy()
    if interpolation is None:
        interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    size = (
        max(1, round(array.shape[1] * scale)),
        max(1, round(array.shape[0] * scale)),
    )
    return cv2.resize(array, size, interpolation=interpolation)


def _paint(
    canvas: np.ndarray, mask: np.ndarray, colour: Colour, scale: float, width: int
) -> None:
    """Fill a mask lightly, in place, and draw its outline."""
    inside = mask.astype(np.float32)
    smooth = _scaled(inside, scale, cv2.INTER_LINEAR) >= 0.5
    blended = (1 - FILL) * canvas[smooth] + FILL * np.asarray(colour)
    canvas[smooth] = np.rint(blended).astype(np.uint8)
    outline, _ = cv2.findContours(
        smooth.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(canvas, outline, -1, colour, width, cv2.LINE_AA)


@cache
def typeface(size: int) -> ImageFont.FreeTypeFont:
    """A sans-serif font that comes with matplotlib."""
    path = Path(mpl.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')
    return ImageFont.truetype(str(path), size)


def _write(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: tuple[float, ...],
    text: str,
    colour: Colour,
    taken: list[tuple[float, ...]],
) -> None:
    """Write a name by its box, away from the names that are there already."""
    font = typeface(int(np.clip(min(size) / 45, 10, 20)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(box[0], 0), max(size[0] - wide, 0))
    inside = (x, max(box[1], 0))
    places = [
        (x, box[1] - high),  # above, below, right and left of the box
        (x, box[3]),
        (box[2], box[1]),
        (box[0] - wide, box[1]),
    ]
    free = (place for place in places if _fits(place, (wide, high), size, taken))
    x, y = next(free, inside)
    taken.append((x, y, x + wide, y + high))
    draw.rectangle((x, y, x + wide, y + high), fill=colour)
    ink = 'black' if np.dot(colour, (0.3, 0.59, 0.11)) > 140 else 'white'
    draw.text((x + 2 - left, y + 2 - top), text, fill=ink, font=font)


def _fits(
    place: tuple[float, float],
    extent: tuple[float, float],
    size: tuple[int, int],
    taken: Sequence[tuple[float, ...]],
) -> bool:
    """Whether a name there is inside of the picture and on no other name."""
    (x, y), (wide, high) = place, extent
    if x < 0 or y < 0 or x + wide > size[0] or y + high > size[1]:
        return False
    return all(
        x + wide <= left or right <= x or y + high <= top or bottom <= y
        for left, top, right, bottom in taken
    )


def legend(width: int, entries: Sequence[tuple[str, Colour]]) -> np.ndarray:
    """Names with their colours in as many lines as they need, on white."""
    font, line, gap = typeface(13), 22, 14
    measure = ImageDraw.Draw(Image.new('RGB', (1, 1)))
    places, x, y = [], gap, 6
    for text, colour in entries:
        wide = 18 + measure.textlength(text, font=font)
        if x > gap and x + wide > width:
            x, y = gap, y + line
        places.append((x, y, text, colour))
        x += wide + gap
    strip = Image.new('RGB', (width, y + line), 'white')
    draw = ImageDraw.Draw(strip)
    for x, y, text, colour in places:
        draw.rectangle((x, y + 2, x + 12, y + 14), fill=colour, outline='grey')
        draw.text((x + 18, y), text, fill='black', font=font)
    return np.asarray(strip)
