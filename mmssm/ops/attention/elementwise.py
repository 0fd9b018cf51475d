"""Separable self-attention as the released code has it: one context for the map."""

import torch
from torch import Tensor


def separable_attention_elementwise(
    x: Tensor, weight: Tensor, alpha: Tensor, beta: Tensor, masked: bool
) -> Tensor:
    """Same shapes as the naive twin; masked must be False."""
    context = global_context(x, weight)
    return beta.to(x.dtype) * x + (alpha * context).to(x.dtype)


def global_context(x: Tensor, weight: Tensor) -> Tensor:
    """sum_l w_l x_l: (B, C, H, W), (H, W) -> (B, C, 1, 1) in the dtype of weight.

    A matrix product over positions, which copies neither memory layout.
    """
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, L, C)
    weights = weight.reshape(1, 1, -1).expand(len(x), -1, -1)  # (B, 1, L)
    context = torch.bmm(weights, rows.to(weight.dtype))
    return context.transpose(1, 2)[..., None]


def why_not(
    x: Tensor, weight: Tensor, alpha: Tensor, beta: Tensor, masked: bool
) -> str | None:
    """This form has one context for all positions."""
    return 'it has no mask' if masked else None
