"""Pictures beside each other with words below them, on one sheet."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mmssm.openmmlab.prediction.drawing import Colour, legend, typeface

GAP, LINE = 10, 18
PAPER, INK = (255, 255, 255), (31, 35, 40)


class Tile(NamedTuple):
    """picture: (H, W, 3) uint8 RGB.  words: lines below it.  legend: names with their
    colours, below the picture.
    """

    picture: np.ndarray
    words: Sequence[str]
    legend: Sequence[tuple[str, Colour]] = ()


def sheet(tiles: Sequence[Tile], columns: int, width: int = 1600) -> np.ndarray:
    """All tiles in rows, (H, W, 3) uint8 RGB; each as wide as its column at most.

    width: of the sheet in pixels, about.  Raises ValueError for no tiles.
    """
    if not tiles:
        raise ValueError('a sheet of no tiles')
    columns = min(columns, len(tiles))
    wide = (width - GAP * (columns + 1)) // columns
    drawn = [_drawn(tile, wide) for tile in tiles]
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    parts = []
    for row in rows:
        high = max(len(picture) for picture in row) + GAP
        strip = np.full((high, width, 3), PAPER, np.uint8)
        for index, picture in enumerate(row):
            left = GAP + index * (wide + GAP)
            strip[GAP : GAP + len(picture), left : left + wide] = picture
        parts.append(strip)
    parts.append(np.full((GAP, width, 3), PAPER, np.uint8))
    return np.concatenate(parts)


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of any height in a row, each as wide as the first."""
    wide = pictures[0].shape[1]
    scaled = [_fitted(picture, wide) for picture in pictures]
    high = max(map(len, scaled))
    row = np.full(
        (high, wide * len(scaled) + GAP * (len(scaled) - 1), 3), 255, np.uint8
    )
    for index, picture in enumerate(scaled):
        left = index * (wide + GAP)
        row[: len(picture), left : left + wide] = picture
    return row


def _drawn(tile: Tile, wide: int) -> np.ndarray:
    """A picture of the width of a column with its words."""
    picture = _fitted(tile.picture, wide)
    strip = Image.new('RGB', (wide, LINE * len(tile.words) + 4), PAPER)
    draw = ImageDraw.Draw(strip)
    for index, text in enumerate(tile.words):
        draw.text((1, 3 + index * LINE), _cut(text, wide), fill=INK, font=typeface(13))
    parts = [picture, np.asarray(strip)]
    if tile.legend:
        parts.insert(1, legend(wide, tile.legend))
    return np.concatenate(parts)


def _cut(text: str, wide: int) -> str:
    """The text, or its two ends with … between them, where it is too long."""
    if typeface(13).getlength(text) <= wide:
        return text
    kept = len(text)
    while kept > 4 and typeface(13).getlength(_ends(text, kept)) > wide:
        kept -= 1
    return _ends(text, kept)


def _ends(text: str, kept: int) -> str:
    return f'{text[: kept // 2]}…{text[len(text) - kept // 2 :]}'


def _fitted(picture: np.ndarray, wide: int) -> np.ndarray:
    """Scaled to a width."""
    high = max(1, round(picture.shape[0] * wide / picture.shape[1]))
    smaller = wide < picture.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return cv2.resize(picture, (wide, high), interpolation=method)
