"""Picture files against their annotations and what the loader makes of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks.pictures import (
    AS_STORED,
    QUARTER_TURNS,
    Loading,
    Picture,
    read_picture,
)
from mmssm.openmmlab.data_checks.report import Report, sample, some

SMALL_SIDE, LONG_SHAPE = 8, 20
UNTURN = (
    "LoadImageFromFile(color_type='color_ignore_orientation') in every pipeline if the "
    'annotations are for the pictures as stored; else save the pictures turned and '
    'without the Exif tag'
)


class Stated(NamedTuple):
    """A picture and the (width, height) that its annotations are for, if they say."""

    path: str
    size: tuple[int, int] | None = None


def check_pictures(
    report: Report,
    pictures: Sequence[Stated],
    samples: int | None,
    how: Loading,
    channels: int | None = None,
) -> None:
    """Every file is there; of a sample: it can be read, and has the stated size.

    channels: how many the model takes, None if unknown.
    """
    missing = [stated.path for stated in pictures if not os.path.isfile(stated.path)]
    if missing:
        report.error(
            f'{len(missing)} of {len(pictures)} pictures do not exist: {some(missing)}',
            'data_prefix and the file names of the annotations are joined: correct '
            'data_prefix, or fetch the files',
        )
        return
    if not how.known:
        report.fact('pictures are not opened: they have a loader of their own')
        return
    chosen = sample(pictures, samples)
    read = [(stated, read_picture(stated.path)) for stated in chosen]
    report.fact(f'{len(chosen)} of {len(pictures)} pictures opened')
    report_unreadable(report, [found for _, found in read if isinstance(found, str)])
    good = [(stated, found) for stated, found in read if isinstance(found, Picture)]
    _check_sizes(report, good, how)
    check_contents(report, [(s.path, found) for s, found in good], how, channels)


def report_unreadable(report: Report, broken: Sequence[str]) -> None:
    if broken:
        report.error(f'unreadable: {some(broken)}', 'copy these files again')


def _check_sizes(
    report: Report, pictures: Sequence[tuple[Stated, Picture]], how: Loading
) -> None:
    wrong, turned = [], []
    for stated, picture in pictures:
        loaded = how.size(picture)
        if stated.size is None or stated.size == loaded:
            if is_ambiguous(picture, how):
                turned.append(f'{stated.path} (orientation {picture.tag})')
        elif loaded != picture.size and stated.size == picture.size:
            turned.append(f'{stated.path} (orientation {picture.tag})')
        else:
            wrong.append(f'{stated.path} is {loaded}, stated {stated.size}')
    if wrong:
        report.error(
            f'pictures of another size than the file states (width, height): '
            f'{some(wrong)}',
            'correct width and height in the annotations, and scale boxes and masks if '
            'the pictures were resized',
        )
    report_turned(report, turned)


def is_ambiguous(picture: Picture, how: Loading) -> bool:
    """Loading mirrors or turns the picture, and its size does not show it."""
    if not how.turns or picture.tag == AS_STORED:
        return False
    return picture.tag not in QUARTER_TURNS or len(set(picture.size)) == 1


def report_turned(report: Report, turned: Sequence[str]) -> None:
    if turned:
        report.error(
            'pictures that Exif turns or mirrors when they are loaded, while nothing '
            f'turns their annotations: {some(turned)}',
            UNTURN,
        )


def check_contents(
    report: Report,
    pictures: Sequence[tuple[str, Picture]],
    how: Loading,
    channels: int | None,
) -> None:
    """Depth, bands and form of pictures against what the loader makes of them."""
    kinds: dict[str, list[str]] = {}
    for path, picture in pictures:
        for kind in _oddities(picture, how, channels):
            kinds.setdefault(kind, []).append(path)
    for kind, paths in kinds.items():
        what, fix, stops = ODDITIES[kind]
        counted = f'{what.format(channels=channels)}: {some(paths)}'
        (report.error if stops else report.warning)(
            counted, fix.format(channels=channels)
        )


def _oddities(picture: Picture, how: Loading, channels: int | None) -> list[str]:
    found = []
    short, long = sorted(picture.size)
    if not picture.decodes:
        found.append('undecodable')
    elif picture.frames > 1:
        found.append('frames')
    if how.channels is None and channels and picture.bands != channels:
        found.append('bands')
    if how.channels == 3 and picture.mode in ('RGBA', 'LA', 'PA'):
        found.append('alpha')
    if picture.mode == 'CMYK':
        found.append('cmyk')
    if how.channels is not None and picture.mode not in EIGHT_BITS:
        found.append('deep')
    if short < SMALL_SIDE:
        found.append('small')
    elif long > LONG_SHAPE * short:
        found.append('long')
    return found


EIGHT_BITS = ('1', 'L', 'P', 'RGB', 'RGBA', 'LA', 'PA', 'CMYK', 'YCbCr', 'uint8')
# kind -> what it is, the way out, whether training would stop or learn nonsense
ODDITIES = dict(
    undecodable=(
        'pictures that OpenCV, which loads them, cannot decode',
        'convert them to PNG or JPEG',
        True,
    ),
    frames=(
        'pictures of several frames (animated), of which the first is read',
        'save the frame that is meant as PNG',
        False,
    ),
    bands=(
        'pictures with another number of channels than the {channels} of the model',
        'set in_channels of the backbone to the bands of the pictures, which must all '
        'have as many, and mean and std to one number each',
        True,
    ),
    alpha=(
        'pictures with a fourth band (alpha), which the loader drops',
        "nothing, if it means nothing; else LoadImageFromFile(color_type='unchanged'), "
        'in_channels=4 in the backbone, and one number each in mean and std',
        False,
    ),
    cmyk=(
        'pictures in CMYK, whose colours the loader has to guess',
        'convert them to RGB',
        False,
    ),
    deep=(
        'pictures of more than 8 bits, of which the loader keeps the high 8',
        'convert them to 8 bits with the contrast that is wanted, or load them by '
        "color_type='unchanged' with mean and std to match",
        False,
    ),
    small=(
        f'pictures with a side below {SMALL_SIDE} pixels',
        'remove them; filter_cfg=dict(min_size=32) leaves them out of detection',
        False,
    ),
    long=(
        f'pictures more than {LONG_SHAPE} times as long as wide',
        'cut them into tiles: resizing to one scale leaves little of them',
        False,
    ),
)
