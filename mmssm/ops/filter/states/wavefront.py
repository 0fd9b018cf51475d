"""States along anti-diagonals, all cells of a diagonal at once, and the adjoint.

Inside the map the rule of `states` is uniform: a cell sends a h + b v to the h of its
right neighbour and c h + d v to the v of the one below, with a, b, c, d = A / 2.  Both
targets lie at a fixed distance from each other in memory, so that one strided view
holds them for a whole diagonal, and a diagonal takes two operations.

Conjugates are always physical here: inside an operator called by compiled code the lazy
ones are ignored.
"""

import torch
from torch import Tensor

from mmssm.ops.filter.states import axis_states, axis_states_adjoint

BLOCK = 1 << 17  # elements of a product that stays in cache while it is summed


def states_wavefront(A: Tensor, B: Tensor, height: int, width: int) -> Tensor:
    """All states after a unit impulse in the corner, scaled as in `states`.

    A: (4, P).  B: (2, P).  Returns (height, width, 2, P).
    """
    row, column = axis_states(A, B, height, width)
    # one row more, for what the last one sends down
    X = A.new_zeros(height + 1, width, 2, A.shape[1])
    X[0, 0] = B
    X[0, 1:, 0] = row
    X[1:-1, 0, 1] = column
    if height > 1 and width > 1:
        half = A / 2
        X[1:-1, 1, 0] = half[1] * X[1:-1, 0, 1]
        X[1, 1:, 1] = half[2] * X[0, 1:, 0]
        sweep(X[1:, 1:], half)
        X[1:, 0, 0] = 0  # what the last column sent to the right
    return X[:-1]


def states_wavefront_adjoint(
    A: Tensor, B: Tensor, X: Tensor, G: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B from G, that of X = states_wavefront(A, B, ...).

    G has the shape and the strides of X and is overwritten.
    """
    corner, row, column = G[0, 0].clone(), G[0, 1:, 0].clone(), G[1:, 0, 1].clone()
    G[0] = 0
    G[:, 0] = 0
    inside = torch.zeros_like(A)
    if G.shape[0] > 1 and G.shape[1] > 1:
        half = A.conj_physical() / 2
        sweep_adjoint(G[1:, 1:], half)
        row += half[2] * G[1, 1:, 1]
        column += half[1] * G[1:, 1, 0]
        inside = sums_over_cells(X, G) / 2
    grad_A, grad_B = axis_states_adjoint(A, B, row, column)
    return (grad_A + inside).to(A.dtype), (grad_B + corner).to(B.dtype)


def sweep(X: Tensor, half: Tensor) -> None:
    """Let every cell of X but the last row send, in place, one diagonal at a time.

    X: (rows + 1, columns, 2, P), a view with a further column or row behind its last
    column in memory; it holds what comes from outside.  half: (4, P), A / 2.
    """
    rows, columns, _, pairs = X.shape
    down, right, vertical, _ = X.stride()
    along = down - right  # from a cell to the next one on its diagonal
    from_h, from_v = half[0::2].contiguous(), half[1::2].contiguous()
    for diagonal in range(rows + columns - 2):
        first = max(0, diagonal - columns + 1)
        count = min(diagonal, rows - 2) + 1 - first
        at = X.storage_offset() + first * down + (diagonal - first) * right
        h = X.as_strided((count, 1, pairs), (along, 0, 1), at)
        v = X.as_strided((count, 1, pairs), (along, 0, 1), at + vertical)
        targets = X.as_strided(
            (count, 2, pairs), (along, along + vertical, 1), at + right
        )
        targets.addcmul_(h, from_h).addcmul_(v, from_v)


def sweep_adjoint(G: Tensor, half: Tensor) -> None:
    """Add to every cell of G what its targets hold, in place; half: conjugated."""
    rows, columns, _, pairs = G.shape
    down, right, vertical, _ = G.stride()
    along = down - right
    for diagonal in range(rows + columns - 3, -1, -1):
        first = max(0, diagonal - columns + 1)
        count = min(diagonal, rows - 1) + 1 - first
        at = G.storage_offset() + first * down + (diagonal - first) * right
        cells = G.as_strided((count, 2, pairs), (along, vertical, 1), at)
        h = G.as_strided((count, 1, pairs), (along, 0, 1), at + right)
        cells.addcmul_(h, half[:2])
        count = min(count, rows - 1 - first)
        v = G.as_strided((count, 1, pairs), (along, 0, 1), at + down + vertical)
        cells[:count].addcmul_(v, half[2:])


def sums_over_cells(X: Tensor, G: Tensor) -> Tensor:
    """Sum of conj(state) * gradient of its target: (rows, columns, 2, P) -> (4, P)."""
    columns, pairs = X.shape[1], X.shape[3]
    X, G = X.flatten(0, 1), G.flatten(0, 1)
    step = max(1, BLOCK // (2 * pairs))
    sums = []
    for target, distance in ((0, 1), (1, columns)):
        parts = []
        for start in range(0, len(X) - distance, step):
            sources = X[start : start + step][: len(X) - distance - start]
            targets = G[start + distance :][: len(sources), target, None]
            parts.append((sources.conj_physical() * targets).sum(0))
        sums.append(torch.stack(parts).sum(0))
    return torch.cat(sums)
