"""Linear attention in linear time, in torch's own operators."""

import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.linear.naive import EPS
from mmssm.ops.linear.rotation import rotary_angles, rotate


def linear_attention_plain(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Keys and values first, then the queries; shapes as the naive twin."""
    angles = rotary_angles(q.shape[2:], q.shape[1], q)
    a, b = (F.elu(x.permute(0, 2, 3, 1).flatten(1, 2)) + 1 for x in (q, k))
    turned_a, turned_b, a, b, values = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2)
        for x in (
            rotate(a, angles),
            rotate(b, angles),
            a,
            b,
            v.permute(0, 2, 3, 1).flatten(1, 2),
        )
    )  # (B, heads, L, C / heads)
    state = turned_b.mT @ values / angles.shape[0]  # len() would fix a size
    y = turned_a @ state / (a @ b.mean(-2, keepdim=True).mT + EPS)
    y = y.transpose(1, 2).flatten(2).unflatten(1, v.shape[2:])
    return y.permute(0, 3, 1, 2)
