"""Linear attention as an explicit matrix over positions."""

import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.linear.naive import EPS
from mmssm.ops.linear.rotation import rotary_angles, rotate


def linear_attention_matrix(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """One product with the (L, L) matrix of each head; shapes as the naive twin."""
    mixing = attention_matrix(q, k, heads)
    values = v.flatten(2).unflatten(1, (heads, -1))  # (B, heads, C / heads, L)
    return (values @ mixing.mT).flatten(1, 2).unflatten(2, v.shape[2:])


def attention_matrix(
    q: Tensor, k: Tensor, heads: int, positions: Tensor | None = None
) -> Tensor:
    """M with y = M v for each head of `linear_attention`, O(L^2) memory.

        M_pl = (R_p a_p . R_l b_l) / (L (a_p . mean_l b_l + 1e-6))
    with a = ELU(q) + 1, b = ELU(k) + 1 and R the rotation of a position.

    q, k: (B, C, H, W) in one dtype.  positions: (P,), the rows that are wanted, by
    default all.  Returns (B, heads, P, L), row p for output p.
    Its rows do not sum to 1: the sums that divide them are not turned.
    """
    angles = rotary_angles(q.shape[2:], q.shape[1], q)
    a, b = (F.elu(x.flatten(2).mT) + 1 for x in (q, k))  # (B, L, C)
    turned_a, turned_b, a, b = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2)
        for x in (rotate(a, angles), rotate(b, angles), a, b)
    )  # (B, heads, L, C / heads)
    if positions is not None:
        a, turned_a = a[:, :, positions], turned_a[:, :, positions]
    level = a @ b.mean(-2, keepdim=True).mT + EPS
    return turned_a @ turned_b.mT / (len(angles) * level)
