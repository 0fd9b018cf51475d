"""Whether picture files can be read, and their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

EXIF_ORIENTATION = 0x0112
QUARTER_TURNS = (5, 6, 7, 8)


class Picture(NamedTuple):
    """(width, height) as stored, and whether Exif asks for a turn by 90 degrees."""

    size: tuple[int, int]
    turned: bool


def read_picture(path: str | Path) -> Picture | str:
    """Decode a file completely. Returns what is wrong as a str."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(EXIF_ORIENTATION) in QUARTER_TURNS
            image.load()
            return Picture(image.size, turned)
    except (OSError, SyntaxError, ValueError) as error:
        return f'{path} ({error})'


def read_label_map(path: str | Path) -> np.ndarray | str:
    """The values that mmseg sees (palette indices for a palette file), or the problem.

    Returns (H, W), or (H, W, channels) when the file has colours.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        return f'{path} ({error})'
