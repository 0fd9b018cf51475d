"""Linear attention with rotary encoding by its definition, one position at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.linear.rotation import rotary_angles, rotate

EPS = 1e-6


def linear_attention_naive(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The twin that defines `linear_attention`; same shapes, one dtype."""
    size, length = q.shape[2:], q.shape[2:].numel()
    angles = rotary_angles(size, q.shape[1], q)
    q, k = (F.elu(x.flatten(2).transpose(1, 2)) + 1 for x in (q, k))  # (B, L, C)
    turned_q, turned_k, q, k, values = (
        x.unflatten(-1, (heads, -1)).unbind(1)
        for x in (
            rotate(q, angles),
            rotate(k, angles),
            q,
            k,
            v.flatten(2).transpose(1, 2),
        )
    )  # each: L times (B, heads, C / heads)
    y = []
    for p in range(length):
        total = torch.zeros_like(values[p])
        level = torch.zeros_like(values[p][..., :1])
        for other in range(length):
            turned = (turned_q[p] * turned_k[other]).sum(-1, keepdim=True)
            total = total + turned * values[other]
            level = level + (q[p] * k[other]).sum(-1, keepdim=True)
        y.append(total / length / (level / length + EPS))
    return torch.stack(y, -1).flatten(1, 2).unflatten(2, size)
