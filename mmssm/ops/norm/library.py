"""LayerNorm over channels by torch's own, which can be exported and fused.

Torch sums the gradients of weight and bias in the dtype of the map on a CPU: over the
40 000 positions of a large map in bfloat16 that of a bias is wrong by nine tenths.
There they are summed here, in float32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from mmssm.ops.operator import is_recorded, is_transformed
from mmssm.ops.precision import no_autocast

BLOCK = 1 << 16  # elements of a product that stays in cache while it is summed


def channel_norm_library(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Same shapes as the naive twin; the result lies channels last."""
    rows = x.permute(0, 2, 3, 1)
    with no_autocast(x):
        if _sums_are_short(x, weight, bias):
            y = _Norm.apply(rows, weight.float(), bias.float(), eps)
        else:
            gain, shift = weight.to(x.dtype), bias.to(x.dtype)
            y = F.layer_norm(rows, weight.shape, gain, shift, eps)
    return y.permute(0, 3, 1, 2)


def _sums_are_short(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether torch's gradients of the parameters would not be right."""
    return (
        x.dtype in (torch.bfloat16, torch.float16)
        and x.device.type == 'cpu'
        and torch.is_grad_enabled()
        and (weight.requires_grad or bias.requires_grad)
        and not is_recorded((x, weight, bias))
        and not is_transformed()
    )


class _Norm(Function):
    """Of rows (B, H, W, C) in 16 bits, weight and bias in float32."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        y, *statistics = torch.native_layer_norm(rows, weight.shape, weight, bias, eps)
        ctx.save_for_backward(rows, weight, bias, *statistics)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # of second order: exact, and not sparing
            wide = F.layer_norm(rows.float(), weight.shape, weight, bias, ctx.eps)
            needs = ctx.needs_input_grad[:3]
            inputs = [t for t, n in zip((rows, weight, bias), needs, strict=True) if n]
            found = torch.autograd.grad(wide, inputs, grad.float(), create_graph=True)
            grads = iter(found)
            return *(next(grads) if need else None for need in needs), None
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_rows, *_ = torch.ops.aten.native_layer_norm_backward(
                grad, rows, weight.shape, mean, rstd, weight, bias, [True, False, False]
            )
        flat = (t.flatten(0, -2) for t in (grad, rows, mean, rstd))
        return of_rows, *_parameter_gradients(*flat), None


def _parameter_gradients(
    grad: Tensor, rows: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """Of weight and bias, (C,) in float32: (P, C), (P, C), (P, 1), (P, 1)."""
    of_weight = grad.new_zeros(grad.shape[1], dtype=torch.float32)
    of_bias = torch.zeros_like(of_weight)
    count = max(1, BLOCK // grad.shape[1])
    for g, x, m, r in zip(
        *(t.split(count) for t in (grad, rows, mean, rstd)), strict=True
    ):
        g = g.float()
        of_bias += g.sum(0)
        of_weight += (x.float().sub_(m).mul_(r).mul_(g)).sum(0)
    return of_weight, of_bias
