"""Pictures of a path: one file, those of a folder, or the frames of a video."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmssm.openmmlab.errors import UserError

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


class Video(NamedTuple):
    """A video file.  frames: how many, as its header has it.  rate: in a second."""

    path: Path
    frames: int
    rate: float


def find(path: str) -> list[Path] | Video:
    """Files of pictures, in order, or a video.

    Raises UserError where there is nothing, or nothing of these.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = [p for p in sorted(place.iterdir()) if p.suffix.lower() in PICTURES]
        if not found:
            suffixes = sorted({p.suffix or 'no suffix' for p in place.iterdir()})
            raise UserError(
                f'the folder {path} has no pictures ({", ".join(PICTURES)}); its '
                f'files end in {", ".join(suffixes[:8]) or "nothing: it is empty"}'
            )
        return found
    if not place.is_file():
        raise UserError(f'there is no picture, folder or video at {path}')
    if place.suffix.lower() not in VIDEOS:
        return [place]
    reader = cv2.VideoCapture(str(place))
    if not reader.isOpened():
        raise UserError(f'{path} cannot be read as a video')
    frames = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = reader.get(cv2.CAP_PROP_FPS) or 25.0
    reader.release()
    return Video(place, frames, rate)


def frames(video: Video) -> Iterator[np.ndarray]:
    """The frames of a video as (H, W, 3) uint8 arrays in RGB."""
    reader = cv2.VideoCapture(str(video.path))
    try:
        while True:
            there, frame = reader.read()
            if not there:
                return
            yield np.ascontiguousarray(frame[..., ::-1])
    finally:
        reader.release()


def names(paths: Sequence[Path]) -> list[str]:
    """A name for what is written of each file: its stem, or all of its name."""
    stems = [path.stem for path in paths]
    return [
        path.name.replace('.', '_') if stems.count(path.stem) > 1 else path.stem
        for path in paths
    ]
