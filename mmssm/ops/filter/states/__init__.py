"""Algorithms for the states of the 2-D SSM; each computes the same two maps.

What they share is the states on the two axes of the map, in closed form.

With the factor 2 of the kernel's first row and column moved into the states, both
follow one rule, h[i, j] = s (A1 h + A2 v)[i, j - 1] and v[i, j] = s (A3 h + A4 v)
[i - 1, j], where s is 1 for targets on an axis and 1/2 inside.  On the axes that is

    h[0, j] = (A1 B1 + A2 B2) A1^(j - 1)      v[0, j] = 0      for j >= 1
    v[i, 0] = (A3 B1 + A4 B2) A4^(i - 1)      h[i, 0] = 0      for i >= 1

Everything here is computed in double: it is small, and A near 1 is raised to powers.
"""

import torch
from torch import Tensor


def powers(base: Tensor, count: int) -> Tensor:
    """base^0, ..., base^(count - 1) by doubling: (P,) -> (count, P)."""
    table, square = torch.ones_like(base)[None], base
    while len(table) < count:
        table = torch.cat([table, table * square])
        square = square * square
    return table[:count]


def double(tensor: Tensor) -> Tensor:
    """In float64, or in complex128."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def axis_states(A: Tensor, B: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """h[0, 1:] and v[1:, 0].

    A: (4, P).  B: (2, P).  Returns (width - 1, P) and (height - 1, P) in double.
    """
    A, B = double(A), double(B)
    row = (A[0] * B[0] + A[1] * B[1]) * powers(A[0], width - 1)
    column = (A[2] * B[0] + A[3] * B[1]) * powers(A[3], height - 1)
    return row, column


def axis_states_adjoint(
    A: Tensor, B: Tensor, grad_row: Tensor, grad_column: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B, in double, from those of both results of `axis_states`."""
    A, B = double(A).conj_physical(), double(B).conj_physical()
    first_h, ratio_h = _geometric_adjoint(A[0] * B[0] + A[1] * B[1], A[0], grad_row)
    first_v, ratio_v = _geometric_adjoint(A[2] * B[0] + A[3] * B[1], A[3], grad_column)
    grad_A = torch.stack([first_h, first_h, first_v, first_v]) * B.repeat(2, 1)
    grad_A[0] += ratio_h
    grad_A[3] += ratio_v
    grad_B = torch.stack(
        [first_h * A[0] + first_v * A[2], first_h * A[1] + first_v * A[3]]
    )
    return grad_A, grad_B


def _geometric_adjoint(
    first: Tensor, ratio: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of first and ratio in first * powers(ratio); both given conjugated."""
    table, grad = powers(ratio, len(grad)), double(grad)
    order = torch.arange(len(grad), device=grad.device)[1:, None]
    return (table * grad).sum(0), first * (order * table[:-1] * grad[1:]).sum(0)
