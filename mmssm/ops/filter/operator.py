"""The filter and its kernels as operators that torch.compile keeps whole.

`filter_fused` and `kernel_fused` take any number of channels; the operators below them
only what `convolution` takes.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops import counting
from mmssm.ops.filter.convolution import (
    Piece,
    apply_pieces,
    empty_as,
    filter_adjoint,
    filter_pieces,
)
from mmssm.ops.filter.kernels import KernelBank, KernelBankAdjoint
from mmssm.ops.filter.plan import Plan, filter_macs, kernel_macs
from mmssm.ops.operator import differentiable
from mmssm.ops.precision import no_autocast, wide


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
    """A filter computed for maps of one shape: (any batch, *shape).

    Raises ValueError for maps of another shape.  Where operators are counted it counts
    as `ssm2d` does, kernels included.
    """

    pieces: list[Piece]
    shape: tuple[int, int, int]
    dtype: torch.dtype
    padded: int  # channels of the pieces
    cost: partial[int]  # of the batch

    def __call__(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1:] != self.shape:
            raise ValueError(
                f'x has shape {tuple(x.shape)}; this filter was prepared for '
                f'(B, {", ".join(map(str, self.shape))}): prepare one for x'
            )
        if counting.is_counting():
            counting.add('ssm2d', self.cost(len(x)))
            return torch.zeros_like(x, dtype=self.dtype)
        with no_autocast(x):
            y = apply_pieces(_pad(x, self.padded), self.pieces, self.dtype)
        return y[:, : x.shape[1]]


def prepare(
    shape: torch.Size, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None, plan: Plan
) -> Prepared:
    """What `filter_fused` does with maps of `shape`, all but the maps' part of it."""
    check_finite(A, B, C)
    A, B, C, skip = align(A, B, C, skip)
    padded = C.shape[2]
    with no_autocast(A):
        pieces = filter_pieces((shape[0], padded, *shape[2:]), A, B, C, skip, plan)
        cost = partial(filter_macs, size=tuple(shape[2:]), A=A, B=B, C=C, plan=plan)
        return Prepared(list(pieces), tuple(shape[1:]), A.real.dtype, padded, cost)


def _macs(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
) -> int:
    A, B, C, _ = align(A, B, C, None)
    plan = Plan((height, width), tolerance, '')
    return filter_macs(len(x), tuple(x.shape[2:]), A, B, C, plan)


FILTER_COST = counting.Cost(_macs, lambda x, *rest: torch.zeros_like(wide(x)[0]))
KERNEL_COST = counting.Cost(
    macs=lambda A, B, C, height, width: kernel_macs(A, C, (height, width)),
    zeros=lambda A, B, C, *size: A.real.new_zeros(*C.shape[1:3], *size),
)


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
    # the kernels divide by the root of the number of states
    return A, B, torch.stack(weights, 1) * directions**0.5, skip


def check_finite(*tensors: Tensor) -> None:
    """Raise ValueError for values that are not finite, where looking is free.

    On other devices than the CPU looking would wait for all work queued there.
    """
    for name, tensor in zip('ABC', tensors, strict=True):
        if tensor.device.type == 'cpu' and not tensor.isfinite().all():
            raise ValueError(
                f'{name} has values that are not finite; the parameters it is made of '
                'have diverged: lower the learning rate or clip gradients'
            )


def _filtered(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
    states: str,
) -> Tensor:
    """x filtered, in the precision of A; shapes as in `convolution`."""
    check_finite(A, B, C)
    plan = Plan((height, width), tolerance, states)
    with no_autocast(x):
        pieces = filter_pieces(x.shape, A, B, C, skip, plan)
        return apply_pieces(x, pieces, A.real.dtype)


def _filter_adjoint(
    grad: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
    states: str,
    needs: list[bool],
) -> list[Tensor]:
    plan = Plan((height, width), tolerance, states)
    grads = filter_adjoint(grad, x, A, B, C, skip, plan, needs[0])
    return list(grads if skip is not None else grads[:4])


def _kernels(
    A: Tensor, B: Tensor, C: Tensor, height: int, width: int, states: str
) -> Tensor:
    """The causal kernels, (directions, channels, height, width)."""
    check_finite(A, B, C)
    with no_autocast(A):
        bank = KernelBank(A, B, C, slice(A.shape[1]), (height, width), states)
        kernels = bank.kernels().permute(1, 2, 0, 3, 4)
    return kernels.flatten(1, 2).contiguous()


def _kernels_adjoint(
    grad: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    height: int,
    width: int,
    states: str,
) -> list[Tensor]:
    ssms = A.shape[1]
    bank = KernelBankAdjoint(A, B, C, slice(ssms), (height, width), states)
    bank.add(grad.unflatten(1, (-1, ssms)).permute(2, 0, 1, 3, 4))
    grad_A, grad_B, grad_C = bank.gradients()
    return [grad_A, grad_B, grad_C.flatten(2, 3).contiguous()]


def _like(x: Tensor, A: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(x, dtype=A.real.dtype)


def _kernels_like(
    A: Tensor, B: Tensor, C: Tensor, height: int, width: int, states: str
) -> Tensor:
    size = (*C.shape[1:3], height, width)
    return torch.empty(size, dtype=A.real.dtype, device=A.device)


def _filter_adjoint_like(
    grad: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    *rest: object,
) -> list[Tensor]:
    *_, needs = rest
    grad_x = torch.empty_like(x) if needs[0] else x.new_empty(0)
    others = [t for t in (A, B, C, skip) if t is not None]
    return [grad_x, *(empty_as(t) for t in others)]


filter_maps = differentiable(
    'mmssm::ssm2d', _filtered, _filter_adjoint, _like, _filter_adjoint_like
)
kernels_of = differentiable(
    'mmssm::ssm2d_kernel', _kernels, _kernels_adjoint, _kernels_like
)


def _pad(x: Tensor, channels: int) -> Tensor:
    """x with channels of zeros; itself, not a copy, if it has them all."""
    extra = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, extra)) if extra else x
