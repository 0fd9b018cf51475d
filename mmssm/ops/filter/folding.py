"""All directions of a filter in one circular kernel, and the FFT that applies it."""

from functools import lru_cache

import torch
from torch import Tensor

from mmssm.ops.filter.naive import FLIPS


@lru_cache(maxsize=256)
def fast_length(least: int) -> int:
    """The smallest even number from `least` on with no prime factor above 7."""
    length = least + least % 2
    while True:
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def fold(kernels: Tensor, lengths: tuple[int, int]) -> Tensor:
    """Sum of the directions' causal kernels, each reflected about the origin.

    kernels: (..., directions, C, height, width).  Returns (..., C, *lengths) with
    index -k on an axis standing for a tap k cells ahead; lengths must be at least
    2 height - 1 and 2 width - 1.
    """
    *batch, directions, channels, _, _ = kernels.shape
    folded = kernels.new_zeros(*batch, channels, *lengths)
    for d, axes in enumerate(FLIPS[directions]):
        for source, target, flips in _parts(tuple(kernels.shape[-2:]), axes):
            piece = kernels[..., d, :, :, :][source]
            folded[target].add_(piece.flip(flips) if flips else piece)
    return folded


def fold_adjoint(grad: Tensor, kernels: Tensor) -> None:
    """Overwrite the kernels with their gradient, given that of `fold`'s result."""
    for d, axes in enumerate(FLIPS[kernels.shape[-4]]):
        for source, target, flips in _parts(tuple(kernels.shape[-2:]), axes):
            piece = grad[target]
            kernels[..., d, :, :, :][source] = piece.flip(flips) if flips else piece


@lru_cache(maxsize=256)
def _parts(size: tuple[int, int], axes: tuple[int, ...]) -> list[tuple]:
    """Pieces of a kernel, where they go in the circular one, and their flips.

    An axis that is not reversed is one piece; a reversed one is index 0, which stays,
    and the rest, which goes to the end in reverse.
    """
    parts = [((...,), (...,), ())]
    for axis, length in zip((-2, -1), size, strict=True):
        if axis not in axes:
            pieces = [(slice(length), slice(length), ())]
        else:
            pieces = [(slice(1), slice(1), ())]
            if length > 1:
                pieces.append((slice(1, None), slice(1 - length, None), (axis,)))
        parts = [
            ((*source, s), (*target, t), (*flips, *f))
            for source, target, flips in parts
            for s, t, f in pieces
        ]
    return parts


def transform(maps: Tensor, lengths: tuple[int, int]) -> Tensor:
    """rfft2 padded to `lengths`, transposed: (..., lengths[1] / 2 + 1, lengths[0]).

    Rows first, so that rows of padding cost nothing; transposed, so that the second FFT
    runs along memory too.
    """
    rows = torch.fft.rfft(maps, n=lengths[1]).mT
    padded = rows.new_empty(*rows.shape[:-1], lengths[0])
    padded[..., : rows.shape[-1]] = rows
    padded[..., rows.shape[-1] :] = 0
    del rows  # memory, before more is taken
    return torch.fft.fft(padded)


def transform_back(
    spectrum: Tensor, lengths: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """The first `size` cells of the inverse, cropped between the axes."""
    rows = torch.fft.ifft(spectrum)[..., : size[0]].mT
    return torch.fft.irfft(rows, n=lengths[1])[..., : size[1]]
