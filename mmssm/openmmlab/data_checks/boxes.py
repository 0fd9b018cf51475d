"""What is wrong with a box, whatever file it comes from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import NamedTuple

# Kinds of fault, worst first.
MALFORMED, NOT_FINITE, EMPTY, OUTSIDE, BEYOND = (
    'malformed',
    'not finite',
    'empty',
    'outside',
    'beyond',
)


class Box(NamedTuple):
    """One box of a file.

    name: where it stands, as the user finds it.  corners: (x1, y1, x2, y2) as read,
    perhaps of another form.  size: (width, height) of the picture, None if unknown.
    """

    name: str
    corners: object
    size: tuple[float, float] | None = None


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def are_numbers(values: object, count: int) -> bool:
    """A list of so many numbers, NaN and infinity included."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == count
        and all(map(is_number, values))
    )


def from_extent(box: object) -> object:
    """(x, y, width, height) -> (x1, y1, x2, y2); anything else as it is."""
    if not are_numbers(box, 4):
        return box
    x, y, width, height = box
    return x, y, x + width, y + height


def fault(box: Box, thinnest: float = 0.0) -> str | None:
    """The kind of fault of a box, None for a sound one.

    thinnest: width and height must be at least this, and above 0.
    """
    if not are_numbers(box.corners, 4):
        return MALFORMED
    if not all(map(math.isfinite, box.corners)):
        return NOT_FINITE
    x1, y1, x2, y2 = box.corners
    if min(x2 - x1, y2 - y1) <= 0 or min(x2 - x1, y2 - y1) < thinnest:
        return EMPTY
    if box.size is None:
        return None
    width, height = box.size
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return OUTSIDE
    # one pixel of tolerance for tools that round
    beyond = x2 > width + 1 or y2 > height + 1 or min(x1, y1) < -1
    return BEYOND if beyond else None


def sort_boxes(boxes: Iterable[Box], thinnest: float = 0.0) -> Mapping[str, list[str]]:
    """Kind of fault -> 'name [values]' of each such box."""
    found = defaultdict(list)
    for box in boxes:
        kind = fault(box, thinnest)
        if kind:
            values = box.corners
            text = list(values) if isinstance(values, Sequence) else values
            text = text if not isinstance(values, str) else repr(values)
            found[kind].append(f'{box.name} {text}')
    return found
