"""The fused filter for any number of channels, at once or prepared for later."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.filter.fused import Piece, apply_pieces, filter_pieces
from mmssm.ops.filter.operator import check_finite, filter_maps, kernels_of
from mmssm.ops.filter.plan import Plan
from mmssm.ops.precision import no_autocast


def filter_fused(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
    *,
    states: str,
) -> Tensor:
    """Arguments and shapes of the naive twin; states: name of their algorithm."""
    channels = x.shape[1]
    A, B, C, skip = align(A, B, C, skip)
    x = _pad(x, C.shape[2])
    y = filter_maps(x, A, B, C, skip, height, width, tolerance, states)
    return y[:, :channels]


def kernel_fused(
    A: Tensor, B: Tensor, C: Tensor, height: int, width: int, *, states: str
) -> Tensor:
    """Arguments and shapes of the naive twin; states: name of their algorithm."""
    channels = C.shape[2]
    A, B, C, _ = align(A, B, C, None)
    return kernels_of(A, B, C, height, width, states)[:, :channels]


class Prepared(NamedTuple):
    """A filter computed for maps of one shape; call it with maps of that shape."""

    pieces: list[Piece]
    channels: int
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            y = apply_pieces(_pad(x, self.channels), self.pieces, self.dtype)
        return y[:, : x.shape[1]]


def prepare(
    shape: torch.Size, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None, plan: Plan
) -> Prepared:
    """What `filter_fused` does with maps of `shape`, all but the maps' part of it."""
    check_finite(A, B, C)
    A, B, C, skip = align(A, B, C, skip)
    channels = C.shape[2]
    with no_autocast(A):
        pieces = filter_pieces((shape[0], channels, *shape[2:]), A, B, C, skip, plan)
        return Prepared(list(pieces), channels, A.real.dtype)


def align(
    A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The same filter with channel e on SSM e mod S in every direction.

    Row d * channels + e of C belongs to SSM (d * channels + e) mod S.  Where S does not
    divide channels, the SSMs of all directions become one with N * directions states,
    of which each direction weighs its own, and channels of zeros are added.
    """
    ssms, (_, directions, channels, count) = A.shape[1], C.shape
    if channels % ssms == 0:
        return A, B, C, skip
    A, B = (
        torch.cat([t.roll(-d * channels, 1) for d in range(directions)], 2)
        for t in (A, B)
    )
    weights = [
        F.pad(C[:, d], (d * count, (directions - 1 - d) * count, 0, -channels % ssms))
        for d in range(directions)
    ]
    if skip is not None:
        skip = F.pad(skip, (0, -channels % ssms))
    # `fused` divides by the root of the number of states
    return A, B, torch.stack(weights, 1) * directions**0.5, skip


def _pad(x: Tensor, channels: int) -> Tensor:
    """x with channels of zeros; itself, not a copy, if it has them all."""
    extra = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, extra)) if extra else x
