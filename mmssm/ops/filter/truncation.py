"""How far the kernels of each SSM reach, as a rigorous bound.

With |A| and |B| in place of A and B every state bounds its counterpart, and the sums of
the bounds over whole columns, H_j of the h inside the map and V_j of the v, obey

    H_1 = b |q| / (1 - |A4|),   q = A3 B1 + A4 B2,   a, b, c, d = |A| / 2
    V_j <= c (|h[0, j]| + H_j) / (1 - d),   H_{j+1} <= a H_j + b V_j

(equality for positive A).  Rows follow by exchanging the axes.
"""

import torch
from torch import Tensor

from mmssm.ops.filter.states import double


def supports(
    A: Tensor, B: Tensor, C: Tensor, size: tuple[int, int], tolerance: float
) -> list[tuple[int, int]]:
    """Kernel sizes that change no output by more than tolerance * max |x|.

    A: (4, S, N).  B: (2, S, N).  C: (2, directions, channels, N), channels a multiple
    of S.  size: (height, width) of the map.  Returns one (height, width) for each SSM,
    at most `size` and at least (1, 1).
    """
    height, width = size
    A, B = double(A), double(B)
    weights = double(C).abs().unflatten(2, (-1, A.shape[1])) / C.shape[3] ** 0.5
    by_column = _masses(A, B, width)
    by_row = _masses(A.flip(0), B.flip(0), height).flip(0)
    return list(
        zip(
            _reach(weights, by_row, tolerance / 2),
            _reach(weights, by_column, tolerance / 2),
            strict=True,
        )
    )


def _reach(weights: Tensor, masses: Tensor, tolerance: float) -> list[int]:
    """Fewest lines that leave out at most `tolerance` of any channel, for each SSM.

    weights: (2, directions, channels / S, S, N).  masses: (2, S, N, lines).
    """
    beyond = masses.flip(-1).cumsum(-1).flip(-1)
    left_out = torch.einsum('tdrsn,tsnl->srl', weights, beyond).amax(1)
    # written so that lines of unbounded mass are kept
    kept = (~(left_out <= tolerance)).sum(-1)
    return kept.clamp(min=1).tolist()


def _masses(A: Tensor, B: Tensor, columns: int) -> Tensor:
    """Bounds of sum_i |h[i, j]| and sum_i |v[i, j]|: (2, S, N, columns)."""
    along = (A[0] * B[0] + A[1] * B[1]).abs()  # |h[0, 1]|
    down = (A[2] * B[0] + A[3] * B[1]).abs()  # |v[1, 0]|
    A, B = A.abs(), B.abs()
    a, b, c, d = A / 2
    column = torch.where(A[3] < 1, down / (1 - A[3]), torch.inf)
    turned = c / (1 - d)
    # (H_j, |h[0, j]|) for j = 1, 2, ... by doubling a step ((stay, gain), (0, axis))
    stay, gain, axis = a + b * turned, b * turned, A[0]
    inside, first = (b * column)[..., None], along[..., None]
    while inside.shape[-1] < columns:
        more = stay[..., None] * inside + gain[..., None] * first
        inside = torch.cat([inside, more], -1)
        first = torch.cat([first, axis[..., None] * first], -1)
        gain = gain * (stay + axis)
        stay, axis = stay * stay, axis * axis
    h = torch.cat([B[0, ..., None], first + inside], -1)
    v = torch.cat(
        [(B[1] + column)[..., None], turned[..., None] * (first + inside)], -1
    )
    return torch.stack([h, v])[..., :columns]
