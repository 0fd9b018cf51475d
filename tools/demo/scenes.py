"""Scenes for the demo: shapes pasted on crops of photographs, with exact masks.

A class is a shape, what fills it, and a range of hues, so that a network can learn it
within minutes, from random weights and on a CPU.  A third of each range is shared with
a neighbour on the colour circle: colour alone does not tell the class.

    class   shape      fill      hue
    ball    ellipse    dotted    red
    star    star       shaded    yellow
    melon   ellipse    striped   green
    ring    ring       flat      cyan
    sail    triangle   striped   blue
    crate   rectangle  checked   magenta

Every object has its own size, aspect ratio (up to 2:1), rotation and two colours of its
class. Objects cover each other; a mask holds only the pixels that remain visible, and
nothing is pasted that would hide more than half of an object below it. Behind them is a
part of a photograph, flipped, its colour channels in random order, tinted when it is
grey, and with reduced contrast and saturation. The picture gets sensor noise at last.

All randomness comes from the `numpy.random.Generator` that is handed in.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

HUES = 6
HUE_SPREAD = 0.10  # to either side, of the whole circle
RADII = (0.14, 0.28)  # of the shorter side of the picture
SUPERSAMPLING = 2  # sub-pixels per pixel and side, for smooth outlines
MIN_VISIBLE = 0.5  # of an object's own area
MIN_PIXELS = 70


class Instance(NamedTuple):
    label: int
    mask: np.ndarray  # (H, W) bool, the visible pixels


class Kind(NamedTuple):
    name: str
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray]
    fills: tuple[str, ...]
    hue: int


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u**2 + v**2 < 1


def _rectangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(abs(u), abs(v)) < 0.85


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (v < 0.8) & (2 * abs(u) < v + 1)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points: each sector is bounded by a straight line from tip to notch."""
    radius, sector = np.hypot(u, v), np.pi / 5
    angle = abs((np.arctan2(v, u) + sector) % (2 * sector) - sector)
    tip, notch = 1.0, 0.45
    edge = tip * notch * np.sin(sector)
    return radius * (notch * np.sin(sector - angle) + tip * np.sin(angle)) < edge


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return abs(np.hypot(u, v) - 0.75) < 0.25


FILLS = ('flat', 'shaded', 'dotted', 'striped', 'checked')
KINDS = (
    Kind('ball', _ellipse, ('dotted',), 0),
    Kind('star', _star, ('shaded',), 1),
    Kind('melon', _ellipse, ('striped',), 2),
    Kind('ring', _ring, ('flat',), 3),
    Kind('sail', _triangle, ('striped',), 4),
    Kind('crate', _rectangle, ('checked',), 5),
)
CLASSES = tuple(kind.name for kind in KINDS)


def _two_colours(rng: Generator, hue: int) -> np.ndarray:
    """Two BGR colours near a hue whose brightness differs visibly. Returns (2, 3)."""
    while True:
        hues = hue / HUES + rng.uniform(-HUE_SPREAD, HUE_SPREAD, 2)
        saturations, values = rng.uniform(0.45, 1, (2, 2))
        colours = 255 * np.array(
            [
                colorsys.hsv_to_rgb(*hsv)[::-1]
                for hsv in zip(hues % 1, saturations, values, strict=True)
            ]
        )
        if abs(colours @ (0.114, 0.587, 0.299) @ (1, -1)) > 50:
            return colours


def _crop(rng: Generator, photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """A random part of `photo`, with the aspect ratio asked for and resized to it."""
    largest = min(photo.shape[0] / height, photo.shape[1] / width)
    scale = largest * rng.uniform(0.35, 1.0)
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    top = rng.integers(photo.shape[0] - h + 1)
    left = rng.integers(photo.shape[1] - w + 1)
    part = photo[top : top + h, left : left + w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)


def _fill(rng: Generator, kind: Kind, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) of an object at its own coordinates p and q, in pixels."""
    fill = kind.fills[rng.integers(len(kind.fills))]
    first, second = _two_colours(rng, kind.hue)
    period, phase = rng.uniform(5, 9), rng.uniform(0, 1)
    stripe, other = (p / period + phase) % 1 < 0.5, (q / period + phase) % 1 < 0.5
    if fill == 'flat':
        weight = np.zeros_like(p)
    elif fill == 'shaded':
        weight = np.clip(0.5 + p / (abs(p).max() + 1), 0, 1) * 0.7
    elif fill == 'dotted':
        cell = [(x / period + phase) % 1 - 0.5 for x in (p, q)]
        weight = np.hypot(*cell) < 0.3
    elif fill == 'striped':
        weight = stripe
    elif fill == 'checked':
        weight = stripe ^ other
    else:
        raise ValueError(f'unknown fill {fill!r}, expected one of {FILLS}')
    weight = weight[..., None].astype(np.float32)
    return (1 - weight) * first.astype(np.float32) + weight * second.astype(np.float32)


def _paste(
    rng: Generator, kind: Kind, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """One object somewhere in a frame of that size.

    Returns its opacity (H, W) and its colours (H, W, 3); the opacity is zero outside.
    """
    radius = min(height, width) * rng.uniform(*RADII)
    aspect, turn = 2 ** rng.uniform(-0.5, 0.5), rng.uniform(0, 2 * np.pi)
    a, b = radius * aspect, radius / aspect
    reach = int(np.ceil(1.25 * max(a, b)))
    x = rng.integers(int(0.6 * radius), int(width - 0.6 * radius))
    y = rng.integers(int(0.6 * radius), int(height - 0.6 * radius))
    side = (2 * reach + 1) * SUPERSAMPLING
    grid = (np.arange(side, dtype=np.float32) + 0.5) / SUPERSAMPLING - reach - 0.5
    dy, dx = np.meshgrid(grid, grid, indexing='ij')
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    p, q = dx * cos + dy * sin, dy * cos - dx * sin

    average = dict(dsize=(2 * reach + 1,) * 2, interpolation=cv2.INTER_AREA)
    inside = kind.inside(p / a, q / b).astype(np.float32)
    opacity = np.zeros((height, width), np.float32)
    colours = np.zeros((height, width, 3), np.float32)
    top, left = y - reach, x - reach
    frame = np.s_[
        max(top, 0) : max(top + 2 * reach + 1, 0),
        max(left, 0) : max(left + 2 * reach + 1, 0),
    ]
    part = np.s_[
        max(-top, 0) : max(-top, 0) + opacity[frame].shape[0],
        max(-left, 0) : max(-left, 0) + opacity[frame].shape[1],
    ]
    opacity[frame] = cv2.resize(inside, **average)[part]
    colours[frame] = cv2.resize(_fill(rng, kind, p, q), **average)[part]
    return opacity, colours


def _background(rng: Generator, photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A part of `photo`, (H, W, 3) float32 with (H, W) = size."""
    image = _crop(rng, photo, *size).astype(np.float32)[..., rng.permutation(3)]
    if np.ptp(image, axis=2).max() == 0:
        image *= rng.uniform(0.6, 1.1, 3).astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    contrast = float(rng.uniform(0.5, 0.9))
    return contrast * (0.5 * image + 0.5 * grey) + float(rng.uniform(10, 40))


def draw_scene(
    rng: Generator, photos: list[np.ndarray], size: tuple[int, int], objects: int
) -> tuple[np.ndarray, list[Instance]]:
    """Draw up to `objects` objects on one of `photos` (each (h, w, 3) uint8, BGR).

    Returns the picture (H, W, 3) uint8 with (H, W) = size, and its instances from back
    to front. There are fewer when there is no room left for another one.
    """
    image = _background(rng, photos[rng.integers(len(photos))], size)
    labels, whole, visible = [], [], []
    for _ in range(5 * objects):
        label = int(rng.integers(len(KINDS)))
        opacity, colours = _paste(rng, KINDS[label], *size)
        mask = opacity > 0.5
        remaining = [m & ~mask for m in visible]
        if mask.sum() < MIN_PIXELS or any(
            m.sum() < max(MIN_PIXELS, MIN_VISIBLE * area)
            for m, area in zip(remaining, whole, strict=True)
        ):
            continue
        image += opacity[..., None] * (colours - image)
        labels.append(label)
        whole.append(mask.sum())
        visible = [*remaining, mask]
        if len(labels) == objects:
            break
    image += 4 * rng.standard_normal(image.shape, np.float32)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return image, [Instance(*pair) for pair in zip(labels, visible, strict=True)]
