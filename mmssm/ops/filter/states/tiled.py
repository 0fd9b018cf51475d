"""States by square tiles: a few large products, for devices where every launch costs.

Inside the map the rule is uniform.  What enters a tile at its left edge (h of its first
column) and at its upper edge (v of its first row) gives all its states, and what leaves
it to the right and downwards, by one matrix each, made of the responses of a tile to
single impulses.  Entering values go over the tiles along anti-diagonals; one product
then fills all tiles.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.filter.states import axis_states, axis_states_adjoint
from mmssm.ops.filter.states.wavefront import sums_over_cells, sweep, sweep_adjoint

T = 16  # side of a tile; 2 T values enter it


def states_tiled(A: Tensor, B: Tensor, height: int, width: int) -> Tensor:
    """As `states_wavefront`: (4, P), (2, P) -> (height, width, 2, P)."""
    row, column = axis_states(A, B, height, width)
    X = A.new_zeros(height, width, 2, A.shape[1])
    X[0, 0] = B
    X[0, 1:, 0] = row
    X[1:, 0, 1] = column
    if height > 1 and width > 1:
        half = A / 2
        fill, carry = _matrices(_responses(half))
        left, upper = half[1] * X[1:, 0, 1], half[2] * X[0, 1:, 0]
        entering = _enter(left, upper)
        _walk(entering, carry)
        entering = entering[:, :-1, :-1]
        tiles = torch.bmm(entering.flatten(3).flatten(1, 2), fill)
        tiles = tiles.view(*entering.shape[:3], T, T, 2)  # (P, rows, columns, T, T, 2)
        cells = tiles.permute(1, 3, 2, 4, 5, 0).flatten(2, 3).flatten(0, 1)
        X[1:, 1:] = cells[: height - 1, : width - 1]
    return X


def states_tiled_adjoint(
    A: Tensor, B: Tensor, X: Tensor, G: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B from G, that of X = states_tiled(A, B, ...)."""
    height, width = X.shape[:2]
    row, column = G[0, 1:, 0], G[1:, 0, 1]
    inside = torch.zeros_like(A)
    if height > 1 and width > 1:
        half = A / 2
        responses = _responses(half)
        fill, carry = _matrices(responses)
        entered = _enter_of(X[1:, 1:])
        padding = (0, 0, 0, 0, 0, -(width - 1) % T, 0, -(height - 1) % T)
        tiles = F.pad(G[1:, 1:], padding).unflatten(1, (-1, T)).unflatten(0, (-1, T))
        tiles = tiles.permute(5, 0, 2, 1, 3, 4).flatten(3).flatten(1, 2)
        grad = entered.new_zeros(entered.shape)
        entering = torch.bmm(tiles, fill.conj_physical().mT)
        grad[:, :-1, :-1] = entering.view(grad[:, :-1, :-1].shape)
        _walk_back(grad, carry)
        left = grad[:, :-1, 0, 0].flatten(1)[:, : height - 1].mT  # (height - 1, P)
        upper = grad[:, 0, :-1, 1].flatten(1)[:, : width - 1].mT
        leaving = torch.cat([grad[:, :-1, 1:, 0], grad[:, 1:, :-1, 1]], -1)
        sources = entered[:, :-1, :-1].flatten(3).flatten(1, 2).conj_physical().mT
        inside = _responses_adjoint(
            responses,
            half,
            torch.bmm(sources, tiles),
            torch.bmm(sources, leaving.flatten(1, 2)),
        )
        inside[1] += (X[1:, 0, 1].conj_physical() * left).sum(0)
        inside[2] += (X[0, 1:, 0].conj_physical() * upper).sum(0)
        row = row + half[2].conj_physical() * upper
        column = column + half[1].conj_physical() * left
    grad_A, grad_B = axis_states_adjoint(A, B, row, column)
    return (grad_A + inside / 2).to(A.dtype), (grad_B + G[0, 0]).to(B.dtype)


def _responses(half: Tensor) -> Tensor:
    """States after an impulse in h, and one in v, of the first cell.

    Returns (T + 1, T + 1, 2, 2 P): those of a tile, what leaves it to the right in the
    h of the last column, and downwards in the v of the last row.
    """
    pairs = half.shape[1]
    X = half.new_zeros(T + 1, T + 1, 2, 2 * pairs)
    X[0, 0, 0, :pairs] = 1
    X[0, 0, 1, pairs:] = 1
    sweep(X[:, :-1], half.repeat(1, 2))
    return X


def _matrices(responses: Tensor) -> tuple[Tensor, Tensor]:
    """Responses -> fill (P, 2 T, T * T * 2) and carry (P, 2 T, 2 T)."""
    after_h, after_v = responses.unflatten(3, (2, -1)).permute(3, 4, 0, 1, 2)
    # entering one row further down shifts the response down, and so for columns
    windows = F.pad(after_h, (0, 0, 0, 0, T, 0)).unfold(1, T + 1, 1)
    rows = windows[:, 1:].flip(1).permute(0, 1, 4, 2, 3)
    windows = F.pad(after_v, (0, 0, T, 0)).unfold(2, T + 1, 1)
    columns = windows[:, :, 1:].flip(2).permute(0, 2, 1, 4, 3)
    shifted = torch.cat([rows, columns], 1)  # (P, 2 T, T + 1, T + 1, 2)
    fill = shifted[:, :, :T, :T].flatten(2)
    return fill, torch.cat([shifted[:, :, :T, T, 0], shifted[:, :, T, :T, 1]], 2)


def _responses_adjoint(
    responses: Tensor, half: Tensor, grad_fill: Tensor, grad_carry: Tensor
) -> Tensor:
    """Gradient of half from those of both matrices."""
    pairs = half.shape[1]
    shifted = half.new_zeros(pairs, 2 * T, T + 1, T + 1, 2)
    shifted[:, :, :T, :T] = grad_fill.view(pairs, 2 * T, T, T, 2)
    shifted[:, :, :T, T, 0], shifted[:, :, T, :T, 1] = grad_carry.split(T, 2)
    G = torch.zeros_like(responses)
    after_h, after_v = G.unflatten(3, (2, -1)).permute(3, 4, 0, 1, 2)
    for shift in range(T):
        after_h[:, : T + 1 - shift] += shifted[:, shift, shift:]
        after_v[:, :, : T + 1 - shift] += shifted[:, T + shift, :, shift:]
    sweep_adjoint(G[:, :-1], half.conj_physical().repeat(1, 2))
    G[1:, 0, 0] = 0  # in memory this follows the last column
    return sums_over_cells(responses, G).unflatten(1, (2, -1)).sum(1)


def _enter(left: Tensor, upper: Tensor) -> Tensor:
    """Values that enter the outer tiles: (height, P), (width, P) ->
    (P, rows + 1, columns + 1, 2, T), with a spare row and column of tiles."""
    rows, columns = (-(-len(edge) // T) for edge in (left, upper))
    entering = left.new_zeros(left.shape[1], rows + 1, columns + 1, 2, T)
    entering[:, :-1, 0, 0] = _in_tiles(left)
    entering[:, 0, :-1, 1] = _in_tiles(upper)
    return entering


def _enter_of(cells: Tensor) -> Tensor:
    """What entered each tile, read from the states (height, width, 2, P)."""
    h = _in_tiles(cells[:, ::T, 0]).transpose(1, 2)  # (P, rows, columns, T)
    v = _in_tiles(cells[::T, :, 1].transpose(0, 1))
    return F.pad(torch.stack([h, v], 3), (0, 0, 0, 0, 0, 1, 0, 1))


def _in_tiles(edge: Tensor) -> Tensor:
    """(length, ..., P) -> (P, ..., tiles, T), padded with zeros."""
    tiles = F.pad(edge.movedim(0, -1), (0, -len(edge) % T)).unflatten(-1, (-1, T))
    return tiles.movedim(-3, 0)


def _diagonals(entering: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of the tiles of each diagonal, (P, n, 2 T), and of where they send to,
    (P, n, 2, T): the left edge of the right neighbour, the upper one of that below."""
    pairs, rows, columns = entering.shape[:3]
    batch, down, right = entering.stride()[:3]
    along, views = down - right, []
    for diagonal in range(rows + columns - 4):
        first = max(0, diagonal - columns + 2)
        count = min(diagonal, rows - 2) + 1 - first
        at = first * down + (diagonal - first) * right
        tiles = entering.as_strided((pairs, count, 2 * T), (batch, along, 1), at)
        targets = entering.as_strided(
            (pairs, count, 2, T), (batch, along, along + T, 1), at + right
        )
        views.append((tiles, targets))
    return views


def _walk(entering: Tensor, carry: Tensor) -> None:
    """Let what leaves each tile enter the next ones, in place."""
    for tiles, targets in _diagonals(entering):
        targets += torch.bmm(tiles, carry).view(targets.shape)


def _walk_back(grad: Tensor, carry: Tensor) -> None:
    """The adjoint of `_walk`, in place."""
    carry = carry.conj_physical().mT
    for tiles, targets in reversed(_diagonals(grad)):
        tiles += torch.bmm(targets.flatten(2), carry)
