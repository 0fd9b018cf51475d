"""The causal kernels of a group of SSMs, from its states, and the adjoint.

    K[e] = N^(-1/2) Re sum_n (C1[e, n] h[n] + C2[e, n] v[n])
Complex numbers are pairs of reals here, Re (C X) being a product of conj(C) and X as
vectors, so that both cases are the same matrix products; N' is N or 2 N.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmssm.ops.filter.plan import Part, budget, parts
from mmssm.ops.filter.states.tiled import states_tiled, states_tiled_adjoint
from mmssm.ops.filter.states.wavefront import states_wavefront, states_wavefront_adjoint
from mmssm.ops.trial import imported


class States(NamedTuple):
    """An algorithm for the states, and its adjoint.

    in_planes: whether the states are (2, P, parts, height, width), real and imaginary
    parts apart, and not (height, width, 2, P).
    """

    run: Callable[..., Tensor]
    adjoint: Callable[..., tuple[Tensor, Tensor]]
    in_planes: bool = False


_KERNELS = 'mmssm.ops.filter.states.triton'
STATES = {
    'triton': States(
        imported(f'{_KERNELS}:states_triton'),
        imported(f'{_KERNELS}:states_triton_adjoint'),
        in_planes=True,
    ),
    'wavefront': States(states_wavefront, states_wavefront_adjoint),
    'tiled': States(states_tiled, states_tiled_adjoint),
}
ALL = Part(slice(None), slice(None))
BLOCK = 64  # cells that one matrix product sums


class KernelBank:
    """States and weights of some SSMs.

    A: (4, S, N).  B: (2, S, N).  C: (2, directions, channels, N), channels a multiple
    of S, channel e belonging to SSM e mod S.  group: the SSMs.  size: (height, width).
    states: a key of `STATES`.
    """

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        group: slice,
        size: tuple[int, int],
        states: str,
    ) -> None:
        self.size = size
        self.A, self.B = (t[:, group].flatten(1) for t in (A, B))  # (4, P), (2, P)
        C = C.unflatten(2, (-1, A.shape[1]))[:, :, :, group]
        self.scale = C.shape[4] ** -0.5
        # (2, ssms, directions, rows, N'), where channel e = row * S + ssm
        weights = _pairs(self.scale * C.conj_physical())
        self.weights = weights.permute(0, 3, 1, 2, 4).contiguous()
        run, self._states_adjoint, self._in_planes = STATES[states]
        self.X = run(self.A, self.B, *size)

    def blocks(self) -> Iterator[Part]:
        """Parts whose kernels fit."""
        _, ssms, directions, rows, _ = self.weights.shape
        channel = directions * math.prod(self.size) * self.weights.element_size()
        return parts(ssms, rows, budget(self.X).kernels // channel)

    def kernels(self, part: Part = ALL) -> Tensor:
        """(ssms, directions, rows, height, width), real."""
        weights = self.weights[:, part.ssms, :, part.rows]
        first, second = weights.flatten(2, 3)
        h, v = self._features(self.X)[:, part.ssms]
        kernels = torch.bmm(first, h).baddbmm_(second, v)
        return kernels.view(*weights.shape[1:4], *self.size)

    def _features(self, X: Tensor) -> Tensor:
        """A view (2, ssms, N', height * width)."""
        if self._in_planes:
            return X.view(2, self.weights.shape[1], -1, math.prod(self.size))
        cells = _pairs(X.flatten(0, 1)).unflatten(2, (self.weights.shape[1], -1))
        return cells.permute(1, 2, 3, 0)


class KernelBankAdjoint(KernelBank):
    """Collects gradients of kernels and turns them into those of A, B and C."""

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        group: slice,
        size: tuple[int, int],
        states: str,
    ) -> None:
        super().__init__(A, B, C, group, size, states)
        self.grad_X = torch.zeros_like(self.X)
        self.grad_weights = torch.empty_like(self.weights)

    def add(self, grad: Tensor, part: Part = ALL) -> None:
        """grad: that of `kernels(part)`."""
        grad = grad.flatten(1, 2).flatten(2)  # (ssms, directions * rows, cells)
        weights = self.weights[:, part.ssms, :, part.rows]
        states = self._features(self.X)[:, part.ssms]
        grad_states = self._features(self.grad_X)[:, part.ssms]
        for axis in (0, 1):
            summed = _sum_over_cells(grad, states[axis]).view(weights.shape[1:])
            self.grad_weights[axis, part.ssms, :, part.rows] = summed
            grad_states[axis].baddbmm_(weights[axis].flatten(1, 2).mT, grad)

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of A (4, ssms, N), B (2, ssms, N) and C (2, directions, rows, ssms, N)."""
        ssms = self.weights.shape[1]
        grad_A, grad_B = self._states_adjoint(self.A, self.B, self.X, self.grad_X)
        grad_C = self.scale * self.grad_weights.permute(0, 2, 3, 1, 4)
        if self.A.is_complex():
            grad_C = torch.view_as_complex(grad_C.unflatten(4, (-1, 2)).contiguous())
        return (
            grad_A.unflatten(1, (ssms, -1)),
            grad_B.unflatten(1, (ssms, -1)),
            grad_C.conj_physical(),
        )


def _sum_over_cells(one: Tensor, other: Tensor) -> Tensor:
    """one @ other^T, by blocks: (S, M, cells), (S, N', cells) -> (S, M, N').

    A sum over a whole map in one run would lose digits of float32.
    """
    cells = one.shape[2]
    whole = cells - cells % BLOCK if cells > 2 * BLOCK else 0
    total = torch.bmm(one[..., whole:], other[..., whole:].mT)
    if whole:
        for ssm, sums in enumerate(total):
            left, right = (
                t[ssm, :, :whole].unflatten(1, (-1, BLOCK)).transpose(0, 1)
                for t in (one, other)
            )
            sums += torch.bmm(left, right.mT).sum(0)
    return total


def _pairs(tensor: Tensor) -> Tensor:
    """(..., n); of real and imaginary parts, (..., 2 n), if complex."""
    if not tensor.is_complex():
        return tensor
    return torch.view_as_real(tensor).flatten(-2)
