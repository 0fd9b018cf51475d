"""The scan in four directions by its definition, one position at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_scan_naive(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """The twin that defines `cross_scan`; same shapes."""
    height, width = u.shape[2:]
    rows = torch.arange(height * width).unflatten(0, (height, width))
    orders = [rows.flatten(), rows.T.flatten()]
    orders += [order.flip(0) for order in orders]
    dt = F.softplus(delta + bias[..., None, None])  # (B, 4, D, H, W)
    u, dt, B, C = u.flatten(2), dt.flatten(3), B.flatten(3), C.flatten(3)
    total = torch.zeros_like(u)
    for k, order in enumerate(orders):
        h = torch.zeros_like(total[..., :1] * A[k])  # (B, D, N)
        found = {}
        for p in order.tolist():
            step = dt[:, k, :, p, None]
            decay = torch.exp(step * A[k])
            h = decay * h + step * u[:, :, p, None] * B[:, k, None, :, p]
            found[p] = (C[:, k, None, :, p] * h).sum(-1) + D[k] * u[:, :, p]
        total = total + torch.stack([found[p] for p in sorted(found)], -1)
    return total.unflatten(2, (height, width))
