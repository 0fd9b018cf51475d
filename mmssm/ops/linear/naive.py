"""Linear attention with rotary encoding by its definition, pair by pair."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.linear.rotation import rotary_angles, rotate

EPS = 1e-6


def linear_attention_naive(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The twin that defines `linear_attention`; same shapes, one dtype."""
    size, length = q.shape[2:], q.shape[2:].numel()
    angles = rotary_angles(size, q.shape[1], q)
    a, b = (F.elu(x.flatten(2).mT) + 1 for x in (q, k))  # (B, L, C)
    turned_a, turned_b, a, b, values = (
        x.unflatten(-1, (heads, -1)).unbind(1)
        for x in (rotate(a, angles), rotate(b, angles), a, b, v.flatten(2).mT)
    )  # each L times (B, heads, C / heads)
    y = []
    for p in range(length):
        total, level = torch.zeros_like(a[p]), torch.zeros_like(a[p])[..., :1]
        for other in range(length):
            weight = (turned_a[p] * turned_b[other]).sum(-1, keepdim=True)
            total = total + weight * values[other]
            level = level + (a[p] * b[other]).sum(-1, keepdim=True)
        y.append(total / length / (level / length + EPS))
    return torch.stack(y, -1).flatten(1, 2).unflatten(2, size)
