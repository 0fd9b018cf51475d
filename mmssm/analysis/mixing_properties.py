"""What the matrix of a token mixer is like: causal, low in rank, wide, local.

All take matrices over positions, (..., P, L): of `mixing_matrix`, with P = L, or a few
rows of one with their positions.  A row that is zero everywhere has no spread and no
shares; it gives nan.
"""

import torch
from torch import Tensor


def share_of_future(
    matrix: Tensor, order: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    """Share of a row's |M| on positions that come after its own.

        sum_{q after p} |M[p, q]| / sum_q |M[p, q]|
    Zero everywhere for a mixer that is causal in the order.

    matrix: (..., P, L).  order: (L,), the positions as they are visited, by default
    row-major.  positions: (P,), of the rows, by default all.  Returns (..., P).
    """
    positions, length = _positions(matrix, positions), matrix.shape[-1]
    if order is None:
        order = torch.arange(length, device=matrix.device)
    if order.sort().values.tolist() != list(range(length)):
        raise ValueError(f'order is no order of the {length} positions')
    time = order.argsort()
    after = time > time[positions][:, None]
    return _share(matrix, after)


def mixing_matrix_rank(matrix: Tensor, tolerance: float | None = None) -> Tensor:
    """Number of singular values above tolerance times the largest.

    matrix: (..., L, L).  tolerance: by default L times the rounding of the dtype; a
    matrix in float32 has small singular values that are nothing but rounding.
    Returns (...).
    """
    return torch.linalg.matrix_rank(matrix, rtol=tolerance)


def spread(
    matrix: Tensor, size: tuple[int, int], positions: Tensor | None = None
) -> Tensor:
    """Mean distance from which a row reads, weighted by |M|, in cells.

        sum_q |M[p, q]| |p - q| / sum_q |M[p, q]|    with the Euclidean distance
    (as the mean attention distance of ViT, arXiv 2010.11929, appendix D.7.)

    matrix: (..., P, L).  size: (H, W) with L = H W.  Returns (..., P).
    """
    steps = _steps(matrix, size, positions)
    weight = matrix.abs()
    distance = steps.square().sum(-1).sqrt().to(weight.dtype)
    return (weight * distance).sum(-1) / weight.sum(-1)


def share_nearby(
    matrix: Tensor,
    size: tuple[int, int],
    positions: Tensor | None = None,
    *,
    reach: int = 1,
) -> Tensor:
    """Share of a row's |M| within reach rows and columns: 1 is the 3 x 3 around it.

    matrix: (..., P, L).  size: (H, W) with L = H W.  Returns (..., P).
    """
    steps = _steps(matrix, size, positions)
    return _share(matrix, steps.abs().amax(-1) <= reach)


def _share(matrix: Tensor, where: Tensor) -> Tensor:
    weight = matrix.abs()
    return (weight * where).sum(-1) / weight.sum(-1)


def _positions(matrix: Tensor, positions: Tensor | None) -> Tensor:
    rows, length = matrix.shape[-2:]
    if positions is None:
        if rows != length:
            raise ValueError(
                f'matrix has shape {tuple(matrix.shape)}; expected (..., L, L), or '
                'positions beside some of its rows'
            )
        return torch.arange(length, device=matrix.device)
    if positions.shape != (rows,):
        raise ValueError(
            f'positions have shape {tuple(positions.shape)}; expected ({rows},), one '
            'for each row of the matrix'
        )
    return positions


def _steps(matrix: Tensor, size: tuple[int, int], positions: Tensor | None) -> Tensor:
    """Rows and columns from each row's own position to all others: (P, L, 2)."""
    positions, length = _positions(matrix, positions), matrix.shape[-1]
    height, width = size
    if height * width != length:
        raise ValueError(
            f'size is {tuple(size)} for a matrix over {length} positions; expected '
            '(H, W) with H W = L'
        )
    each = torch.arange(length, device=matrix.device)
    places = torch.stack([each // width, each % width], -1)
    return places - places[positions][:, None]
