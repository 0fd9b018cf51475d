"""The scan in four directions as four calls of `selective_scan`.

Directions follow one another, so that the map is never held in four copies.
"""

import torch
from torch import Tensor

from mmssm.ops.precision import wide
from mmssm.ops.scan import selective_scan


def cross_scan_sequences(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """Same shapes as the naive twin; whatever backend `selective_scan` takes."""
    u_wide, C, D = wide(u, C, D)
    total = u_wide * D.sum(0)[:, None, None]
    for k in range(4):
        states = selective_scan(
            _ordered(u, k),
            _ordered(delta[:, k], k),
            A[k],
            _ordered(B[:, k], k).unsqueeze(1),
            bias[k],
        )
        y = (states * _ordered(C[:, k], k).unsqueeze(1)).sum(2)
        total = total + _back(y, k, u.shape[2:])
    return total


def _ordered(x: Tensor, k: int) -> Tensor:
    """(B, D, H, W) -> (B, D, L), positions in the order of direction k."""
    x = (x.mT if k % 2 else x).flatten(2)
    return x.flip(2) if k > 1 else x


def _back(y: Tensor, k: int, size: torch.Size) -> Tensor:
    """(B, D, L) in the order of direction k -> (B, D, H, W)."""
    y = y.flip(2) if k > 1 else y
    if k % 2:
        return y.unflatten(2, size[::-1]).mT
    return y.unflatten(2, size)
