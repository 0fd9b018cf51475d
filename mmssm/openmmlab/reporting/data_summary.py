"""What the data of a config consists of, in numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmssm.openmmlab.reporting.evaluating import spread
from mmssm.openmmlab.reporting.truth import Objects, Picture, Truths

OPENED = 200  # pictures and label maps that are looked into
SMALL, LARGE = 32**2, 96**2  # areas of objects, in pixels, as COCO divides them


class Summary(NamedTuple):
    """Of the data of a loader.

    facts: names with what is to be said.  classes: (name, count, share) of each class:
    of objects, or of the pixels of a sample of label maps.
    """

    key: str
    facts: list[tuple[str, str]]
    classes: list[tuple[str, int, float]]


def summarise(truths: Truths) -> Summary:
    """Pictures, their sizes, and what is in them."""
    facts = [('pictures', f'{len(truths):,}'), ('sizes', _sizes(truths.pictures))]
    if truths.of_pixels:
        more, counts = _regions(truths)
    else:
        more, counts = _objects(truths)
    total = max(int(counts.sum()), 1)
    classes = [
        (name, int(count), count / total)
        for name, count in zip(truths.classes, counts, strict=True)
    ]
    absent = [name for name, count, _ in classes if not count]
    if absent:
        names = ', '.join(absent[:6]) + ', …' * (len(absent) > 6)
        more.append((f'{len(absent)} classes without any', names))
    return Summary(truths.key, facts + more, classes)


def _objects(truths: Truths) -> tuple[list[tuple[str, str]], np.ndarray]:
    counts = np.zeros(len(truths.classes), np.int64)
    areas, empty, ignored = [], 0, 0
    for index in range(len(truths)):
        truth: Objects = truths[index]
        counted = ~truth.ignored
        counts += np.bincount(truth.labels[counted], minlength=len(counts))
        sides = truth.boxes[counted, 2:] - truth.boxes[counted, :2]
        areas.append(sides.prod(1))
        empty += not counted.any()
        ignored += int(truth.ignored.sum())
    areas = np.concatenate(areas)
    total = int(counts.sum())
    parts = (
        ('small (below 32²)', (areas < SMALL).sum()),
        ('medium', ((areas >= SMALL) & (areas < LARGE)).sum()),
        ('large (from 96² on)', (areas >= LARGE).sum()),
    )
    sizes = ', '.join(f'{100 * n / max(total, 1):.0f} % {name}' for name, n in parts)
    facts = [
        ('objects', f'{total:,}, {total / len(truths):.1f} in a picture'),
        ('areas of boxes', sizes),
        ('pictures without objects', f'{empty:,}'),
    ]
    if ignored:
        facts.append(('crowds and difficult ones, ignored', f'{ignored:,}'))
    return facts, counts


def _regions(truths: Truths) -> tuple[list[tuple[str, str]], np.ndarray]:
    count = len(truths.classes)
    counts, ignored, present = np.zeros(count, np.int64), 0, []
    chosen = spread(len(truths), OPENED)
    for index in chosen:
        labels = truths[index].labels
        known = labels[(labels >= 0) & (labels < count)]
        found = np.bincount(known, minlength=count)
        counts += found
        ignored += labels.size - known.size
        present.append(np.count_nonzero(found))
    share = 100 * ignored / max(ignored + int(counts.sum()), 1)
    facts = [
        ('label maps looked into', f'{len(chosen)} of {len(truths):,}'),
        ('classes in a picture', f'{np.mean(present):.1f}'),
        ('pixels ignored', f'{share:.1f} %'),
    ]
    return facts, counts


def _sizes(pictures: Sequence[Picture]) -> str:
    """Height × width: all that there are, or the range."""
    chosen = [pictures[i] for i in spread(len(pictures), OPENED)]
    sizes = Counter(_size(picture) for picture in chosen)
    if len(sizes) <= 3:
        return ', '.join(f'{h} × {w}' for (h, w), _ in sizes.most_common())
    heights, widths = zip(*sizes, strict=True)
    middle = sorted(sizes.elements(), key=lambda s: s[0] * s[1])[len(chosen) // 2]
    return (
        f'{min(heights)} to {max(heights)} × {min(widths)} to {max(widths)} pixels, '
        f'the middle one {middle[0]} × {middle[1]}'
    )


def _size(picture: Picture) -> tuple[int, int]:
    height, width = (picture.info.get(key) for key in ('height', 'width'))
    if height and width:
        return int(height), int(width)
    with Image.open(picture.path) as image:
        return image.height, image.width
