"""The selective scan by its definition, one step at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_naive(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor | None,
) -> Tensor:
    """The twin that defines `selective_scan`; same shapes, B with four axes."""
    B = B.repeat_interleave(u.shape[1] // B.shape[1], dim=1)  # (B, D, N, L)
    if delta_weight is not None:
        delta = delta_weight @ delta
    dt = F.softplus(delta + delta_bias[:, None])  # (B, D, L)
    h = torch.zeros_like(B[..., 0])
    states = []
    for t in range(u.shape[2]):
        decay = torch.exp(dt[:, :, t, None] * A)
        h = decay * h + (dt * u)[:, :, t, None] * B[..., t]
        states.append(h)
    return torch.stack(states, dim=-1)
