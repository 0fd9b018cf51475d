"""Whether picture files can be read, and what the loader will make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from mmssm.openmmlab.data_checks.leaves import quiet

EXIF_ORIENTATION = 0x0112
AS_STORED = 1
QUARTER_TURNS = (5, 6, 7, 8)


class Picture(NamedTuple):
    """What a file holds.

    size: (width, height) as stored.  tag: Exif orientation, 1 to 8.  bands: channels.
    """

    size: tuple[int, int]
    tag: int = AS_STORED
    bands: int = 3
    mode: str = 'RGB'
    frames: int = 1
    decodes: bool = True


class Loading(NamedTuple):
    """How a pipeline opens pictures.

    known: by LoadImageFromFile, so that the rest is what it does.  turns: it obeys
    Exif.  channels: what it makes of any file; None: as many as the file has.
    """

    known: bool = True
    turns: bool = True
    channels: int | None = 3

    def size(self, picture: Picture) -> tuple[int, int]:
        """(width, height) of the picture once loaded."""
        turned = self.turns and picture.tag in QUARTER_TURNS
        return picture.size[::-1] if turned else picture.size


def loading(pipeline: Sequence[Mapping]) -> Loading:
    """How the pipeline of a dataset loads; mmcv's defaults for an empty one."""
    if not pipeline:
        return Loading()
    for step in pipeline:
        kind = str(step.get('type')).split('.')[-1].strip("'>")
        if kind == 'LoadImageFromFile':
            colour = step.get('color_type', 'color')
            turns = colour in ('color', 'grayscale')
            channels = dict(unchanged=None).get(colour, 1 if 'gray' in colour else 3)
            return Loading(True, turns, channels)
    return Loading(False, False, None)


def read_picture(path: str | Path) -> Picture | str:
    """Decode a file completely. Returns what is wrong as a str."""
    try:
        with quiet(), Image.open(path) as image:
            tag = image.getexif().get(EXIF_ORIENTATION, AS_STORED)
            frames = getattr(image, 'n_frames', 1)
            image.load()
            tag = tag if tag in range(1, 9) else AS_STORED
            bands = 3 if image.mode == 'P' else len(image.getbands())
            decodes = cv2.haveImageReader(str(path))
            return Picture(image.size, tag, bands, image.mode, frames, decodes)
    # Decoders raise whatever they stumble over; the user gets to see what.
    except Exception as error:  # noqa: BLE001
        return _read_by_cv2(path) or f'{path} ({error})'


def _read_by_cv2(path: str | Path) -> Picture | None:
    """For what Pillow does not know, such as TIFF files of many bands.

    A JPEG or PNG that Pillow cannot finish is damaged; OpenCV would fill it up.
    """
    try:
        data = np.fromfile(path, np.uint8)
        if data[:2].tobytes() not in (b'II', b'MM'):
            return None
        found = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        return None
    if found is None:
        return None
    bands = 1 if found.ndim == 2 else found.shape[2]
    return Picture(found.shape[1::-1], AS_STORED, bands, str(found.dtype))


def read_label_map(path: str | Path) -> np.ndarray | str:
    """The values that mmseg sees (palette indices for a palette file), or the problem.

    Returns (H, W), or (H, W, channels) when the file has colours.
    """
    try:
        with quiet(), Image.open(path) as image:
            return np.asarray(image)
    except Exception as error:  # noqa: BLE001 (as above)
        return f'{path} ({error})'
