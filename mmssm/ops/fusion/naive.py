"""State fusion and its observation by their definitions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def state_fusion_naive(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> Tensor:
    """The twin that defines `state_fusion`; same shapes."""
    mixed = h.new_zeros(h.shape)
    for weight, scale, d in zip(kernels, alpha, dilations, strict=True):
        bordered = F.pad(h, (d, d, d, d), mode='replicate')
        near = F.conv2d(bordered, weight, dilation=d, groups=h.shape[1])
        mixed = mixed + scale * near
    return mixed


def observe_naive(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
    dtype: torch.dtype | None,
) -> Tensor:
    """The twin that defines `observe`; same shapes."""
    y = C * state_fusion_naive(h, kernels, alpha, dilations) + D[:, None, None] * u
    return y.to(dtype or y.dtype)
