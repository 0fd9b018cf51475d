"""Linear attention with rotary encoding by its definition, one position at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.linear.rotation import rotary_angles, rotate

EPS = 1e-6


def linear_attention_naive(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The twin that defines `linear_attention`; same shapes, one dtype."""
    size = q.shape[2:]
    angles = rotary_angles(size, q.shape[1], q)
    a, b = (F.elu(x.flatten(2).mT) + 1 for x in (q, k))  # (B, L, C)
    turned_a, turned_b, a, b, values = (
        x.unflatten(-1, (heads, -1))
        for x in (rotate(a, angles), rotate(b, angles), a, b, v.flatten(2).mT)
    )  # (B, L, heads, C / heads)
    y = []
    for p in range(len(angles)):
        seen = (turned_a[:, p, None] * turned_b).sum(-1, keepdim=True)
        level = (a[:, p, None] * b).sum(-1, keepdim=True).mean(1)
        y.append((seen * values).mean(1) / (level + EPS))
    return torch.stack(y, -1).flatten(1, 2).unflatten(2, size)
