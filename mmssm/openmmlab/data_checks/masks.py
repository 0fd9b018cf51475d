"""What is wrong with the mask of an object: polygons and run lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mmssm.openmmlab.data_checks.boxes import is_number

REMEDIES = dict(
    absent='add the masks, or train a detector without masks (with_mask=False and no '
    'mask head)',
    flat='a segmentation is a list of polygons: [[x1, y1, x2, y2, x3, y3, …]], with '
    'two brackets',
    malformed='a segmentation is a list of polygons, or a dict of run lengths with '
    '"counts" and "size"',
    few='remove or correct them; a polygon is [x1, y1, x2, y2, x3, y3, …]',
    infinite='write numbers, or remove the annotation',
    size='"size" is [height, width] of the picture: encode the mask again',
    undecodable='encode the mask again with pycocotools.mask.encode',
    empty='remove the annotation: its mask has no pixel',
)
WORDS = dict(
    absent='no mask, though the pipeline loads masks (with_mask=True)',
    flat='one flat list of numbers for a segmentation',
    malformed='a segmentation that is neither polygons nor run lengths',
    few='polygons with fewer than three points or an odd count',
    infinite='polygons with NaN or infinite coordinates',
    size='run lengths of another size than the picture',
    undecodable='run lengths that cannot be decoded',
    empty='run lengths without a single pixel',
)


def mask_fault(mask: object, size: tuple[int, int] | None = None) -> str | None:
    """A key of WORDS for a segmentation as COCO writes it; None for a sound one.

    size: (width, height) of the picture, None if unknown.
    """
    if mask is None or (isinstance(mask, Sequence | Mapping) and not mask):
        return 'absent'
    if isinstance(mask, Mapping):
        return _runs_fault(mask, size)
    if not isinstance(mask, Sequence) or isinstance(mask, str):
        return 'malformed'
    if all(map(is_number, mask)):
        return 'flat'
    for polygon in mask:
        if not isinstance(polygon, Sequence) or isinstance(polygon, str):
            return 'malformed'
        if not all(map(is_number, polygon)):
            return 'malformed'
        if len(polygon) < 6 or len(polygon) % 2:
            return 'few'
        if not all(map(math.isfinite, polygon)):
            return 'infinite'
    return None


def _runs_fault(mask: Mapping, size: tuple[int, int] | None) -> str | None:
    counts, stated = mask.get('counts'), mask.get('size')
    if not isinstance(stated, Sequence) or len(stated) != 2:
        return 'malformed'
    if not all(type(side) is int and side > 0 for side in stated):
        return 'malformed'
    if size is not None and tuple(stated[::-1]) != tuple(size):
        return 'size'
    if isinstance(counts, Sequence) and not isinstance(counts, str | bytes):
        if not all(type(count) is int and count >= 0 for count in counts):
            return 'malformed'
        if not sum(counts[1::2]):
            return 'empty'
        return None if sum(counts) == stated[0] * stated[1] else 'undecodable'
    if not isinstance(counts, str | bytes):
        return 'malformed'
    runs = decode_counts(counts.encode() if isinstance(counts, str) else counts)
    if runs is None or (counts and sum(runs) != stated[0] * stated[1]):
        return 'undecodable'
    return None if sum(runs[1::2]) else 'empty'


def decode_counts(text: bytes) -> list[int] | None:
    """Run lengths of COCO's compressed form; None for text that is none.

    Each number is written in groups of 5 bits, least first, in characters from '0':
    bit 5 says that another group follows, bit 4 of the last group is the sign.  From
    the fourth number on it is the difference to the last but one.
    pycocotools reads beyond the end of text that is cut off.
    """
    runs, value, shift = [], 0, 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        run = value + (runs[-2] if len(runs) > 2 else 0)
        if run < 0:
            return None
        runs.append(run)
        value, shift = 0, 0
    return None if shift else runs
