"""The gated norm in plain torch, which keeps its inputs alone for the adjoint.

The norm and the gate are computed again in the backward pass: two maps are saved in
place of five.  Without one, what runs is torch's own operators alone, which can be
exported and fused.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.precision import precision


def gated_norm_recomputed(
    y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Same shapes as the naive twin; the result lies channels last."""
    y, z = (t.permute(0, 2, 3, 1) for t in (y, z))
    run = _gated if torch.is_grad_enabled() else _gate
    return run(y, z, weight, bias, eps).permute(0, 3, 1, 2)


def _gate(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """y, z: (B, H, W, C)."""
    dtype = precision(y, z, weight, bias)
    normed = F.layer_norm(
        y.to(dtype), y.shape[-1:], weight.to(dtype), bias.to(dtype), eps
    )
    return (normed * F.silu(z.to(dtype))).to(z.dtype)


@custom_op('mmssm::gated_norm', mutates_args=())
def _gated(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """y, z: (B, H, W, C)."""
    return _gate(y, z, weight, bias, eps).contiguous()


@custom_op('mmssm::gated_norm_adjoint', mutates_args=())
def _adjoint(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = precision(y, z, weight, bias)
    wide_y, wide_z, wide_grad, gain, shift = (
        t.to(dtype) for t in (y, z, grad, weight, bias)
    )
    normed, mean, rstd = torch.native_layer_norm(wide_y, y.shape[-1:], gain, shift, eps)
    grad_z = torch.ops.aten.silu_backward(normed.mul_(wide_grad), wide_z)
    grad_normed = F.silu(wide_z).mul_(wide_grad)
    grad_y, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad_normed, wide_y, y.shape[-1:], mean, rstd, gain, shift, [True] * 3
    )
    return (
        grad_y.to(y.dtype).contiguous(),
        grad_z.to(z.dtype).contiguous(),
        grad_weight.to(weight.dtype),
        grad_bias.to(bias.dtype),
    )


@_gated.register_fake
def _(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return z.new_empty(z.shape)


@_adjoint.register_fake
def _(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (y, z, weight, bias))


def _save(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.eps = inputs[4]


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_adjoint(grad, *ctx.saved_tensors, ctx.eps), None


_gated.register_autograd(_backward, setup_context=_save)
