"""Separable self-attention in windows of the trained size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.attention.elementwise import global_context
from mmssm.ops.precision import no_autocast, wide


def windowed_separable_attention(
    q: Tensor, k: Tensor, weight: Tensor, alpha: Tensor, beta: Tensor
) -> Tensor:
    """`separable_attention` with a context of its own in every window.

    Windows of the size of the weights cover the map, as few as possible and evenly
    spread; a position in several takes the mean of their contexts.  A map of the size
    of the weights is one window.  A reading of this project, not in the released code.

    q, k: (B, C, H, W).  weight: (h, w) with h <= H and w <= W.  alpha, beta: scalars.
    Returns (B, C, H, W).  Linear in H W.

    Raises ValueError for weights larger than the map.
    """
    (height, width), (rows, columns) = q.shape[2:], weight.shape
    if rows > height or columns > width:
        raise ValueError(
            f'weight has shape {tuple(weight.shape)}; expected at most that of the '
            f'map, {(height, width)}: resample the weights first'
        )
    with no_autocast(q):
        x = F.relu6(q) * k
        weight, alpha, beta, _ = wide(weight, alpha, beta, x[:0])
        tops, lefts = window_starts(height, rows), window_starts(width, columns)
        contexts = [
            global_context(x[:, :, i : i + rows, j : j + columns], weight)
            for i in tops
            for j in lefts
        ]
        context = torch.cat(contexts, dim=3).unflatten(3, (len(tops), -1)).squeeze(2)
        context = window_shares(height, rows).to(context) @ context
        context = context @ window_shares(width, columns).to(context).T
        return beta.to(x.dtype) * x + (alpha * context).to(x.dtype)


def window_starts(length: int, window: int) -> list[int]:
    """First positions of the fewest windows that cover the length, evenly spread."""
    gaps = -(-length // window) - 1
    return [i * (length - window) // max(gaps, 1) for i in range(gaps + 1)]


def window_shares(length: int, window: int) -> Tensor:
    """(length, windows): 1 / n for each of the n windows that hold a position."""
    positions = torch.arange(length)[:, None]
    starts = torch.tensor(window_starts(length, window))
    inside = (positions >= starts) & (positions < starts + window)
    return inside / inside.sum(1, keepdim=True)
