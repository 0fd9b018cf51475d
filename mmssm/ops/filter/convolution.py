"""States, kernels and FFT convolution in one pass that saves nothing but its inputs.

A group of SSMs gets its states; from them, a chunk of channels at a time, the kernels,
their circular form, its spectrum, and the product with the spectrum of the input.  The
adjoint computes all of it again.

Shapes everywhere: x (B, channels, H, W) in any memory format; A (4, S, N), B (2, S, N)
and C (2, directions, channels, N) real or complex; skip (channels,) or None.  channels
is a multiple of S, and channel e belongs to SSM e mod S in every direction, so that a
map can be seen as (B, channels / S, S, H, W).  Maps that are not contiguous are copied
once: a few channels of a channels-last map touch all of its memory.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mmssm.ops.filter.kernels import KernelBank, KernelBankAdjoint
from mmssm.ops.filter.naive import FLIPS
from mmssm.ops.filter.plan import Channels, Part, Plan, Size, budget, groups, parts


class Piece(NamedTuple):
    """The filter of some channels; spectrum: (rows, ssms, ...) of `transform`."""

    channels: Channels
    lengths: Size
    spectrum: Tensor


def filter_pieces(
    shape: torch.Size, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None, plan: Plan
) -> Iterator[Piece]:
    """The filter for maps of `shape`, one piece after the other."""
    for group in groups(A, B, C, plan, shape[2:]):
        bank = KernelBank(A, B, C, group.ssms, group.size, plan.states)
        for block in bank.blocks():
            kernels = bank.kernels(block)
            for chunk in _chunks(kernels, group.lengths, shape[0]):
                channels = Channels(A.shape[1], (group.part, block, chunk))
                spectrum = _spectrum(_of(kernels, chunk), skip, channels, group.lengths)
                yield Piece(channels, group.lengths, spectrum)
        del bank, kernels  # before the next ones are made


def apply_pieces(x: Tensor, pieces: Iterable[Piece], dtype: torch.dtype) -> Tensor:
    """x filtered, laid out as x and in dtype."""
    maps = x.contiguous()
    y = torch.empty_like(maps, dtype=dtype)
    for channels, lengths, spectrum in pieces:
        product = transform(channels.of(maps).to(dtype), lengths).mul_(spectrum)
        channels.of(y).copy_(transform_back(product, lengths, x.shape[2:]))
    return _laid_out_as(x, y)


def filter_adjoint(
    grad: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    plan: Plan,
    needs_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, A, B, C and skip; those of x and skip empty where not needed."""
    given, x, grad = x, x.contiguous(), grad.contiguous()
    grad_x = torch.empty_like(x) if needs_x else x.new_empty(0)
    grad_skip = grad.new_empty(0) if skip is None else empty_as(skip)
    grad_A, grad_B, grad_C = (empty_as(t) for t in (A, B, C))
    for group in groups(A, B, C, plan, x.shape[2:]):
        bank = KernelBankAdjoint(A, B, C, group.ssms, group.size, plan.states)
        for block in bank.blocks():
            kernels = bank.kernels(block)
            for chunk in _chunks(kernels, group.lengths, x.shape[0]):
                channels = Channels(A.shape[1], (group.part, block, chunk))
                taps, lengths = _of(kernels, chunk), group.lengths
                product = transform(channels.of(grad), lengths)
                folded = _correlation(channels.of(x).to(grad.dtype), product, lengths)
                if needs_x:
                    spectrum = _spectrum(taps, skip, channels, lengths)
                    product.mul_(spectrum.conj_physical_())
                    filtered = transform_back(product, lengths, x.shape[2:])
                    channels.of(grad_x).copy_(filtered)
                if skip is not None:
                    channels.of(grad_skip[None])[0] = folded[..., 0, 0].mT
                fold_adjoint(folded, taps)  # the kernels themselves are done with
            bank.add(kernels, block)
        grad_A[:, group.ssms], grad_B[:, group.ssms], part = bank.gradients()
        grad_C.unflatten(2, (-1, A.shape[1]))[:, :, :, group.ssms] = part
        del bank, kernels
    if needs_x:
        grad_x = _laid_out_as(given, grad_x)
    return grad_x, grad_A, grad_B, grad_C, grad_skip


def empty_as(tensor: Tensor) -> Tensor:
    """Like the tensor, contiguous whatever its strides."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _laid_out_as(x: Tensor, maps: Tensor) -> Tensor:
    """Contiguous maps with the strides of x, of the same shape."""
    return (
        maps if x.is_contiguous() else torch.empty_like(x, dtype=maps.dtype).copy_(maps)
    )


def _chunks(kernels: Tensor, lengths: Size, batch: int) -> Iterator[Part]:
    """Parts of a block whose spectra, for a batch of maps, fit."""
    spectrum = batch * lengths[0] * lengths[1] * kernels.element_size()
    fit = budget(kernels).spectra // spectrum
    return parts(kernels.shape[0], kernels.shape[2], fit)


def _of(kernels: Tensor, chunk: Part) -> Tensor:
    return kernels[chunk.ssms, :, chunk.rows]


def _spectrum(
    kernels: Tensor, skip: Tensor | None, channels: Channels, lengths: Size
) -> Tensor:
    """(rows, ssms, ...) of `transform`; the skip is a tap at the origin."""
    folded = fold(kernels, lengths)
    if skip is not None:
        folded[..., 0, 0] += channels.of(skip[None])[0].mT
    return transform(folded, lengths).transpose(0, 1)


def _correlation(maps: Tensor, spectrum: Tensor, lengths: Size) -> Tensor:
    """Of the maps with what has the spectrum, (B, ...), summed: (ssms, rows, *lengths).

    On a CPU adding products one by one takes a tenth of the time of a sum over the
    first axis; a GPU would launch a kernel for each.
    """
    product = transform(maps, lengths).conj_physical_()
    if _is_wide(product):
        total = product.mul_(spectrum).sum(0)
        return transform_back(total.transpose(0, 1), lengths, lengths)
    total = product[0].mul_(spectrum[0])
    for one, other in zip(product[1:], spectrum[1:], strict=True):
        total.addcmul_(one, other)
    return transform_back(total.transpose(0, 1), lengths, lengths)


def _is_wide(x: Tensor) -> bool:
    """Whether the device is one of few large operations."""
    return x.device.type != 'cpu'


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
