"""The gated norm in plain torch, which keeps its inputs alone for the adjoint.

The norm and the gate are computed again in the backward pass: two maps are saved in
place of five.  Without one, what runs is torch's own operators alone, which can be
exported and fused.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.operator import differentiable
from mmssm.ops.precision import no_autocast, precision

LAST = torch.channels_last


def gated_norm_recomputed(
    y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Same shapes as the naive twin; the result lies channels last."""
    run = _gated if torch.is_grad_enabled() else _gate
    with no_autocast(y):
        return run(y, z, weight, bias, eps)


def _gate(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    dtype = precision(y, z, weight, bias)
    y, gate = y.permute(0, 2, 3, 1).to(dtype), z.permute(0, 2, 3, 1).to(dtype)
    normed = F.layer_norm(y, y.shape[-1:], weight.to(dtype), bias.to(dtype), eps)
    return (normed * F.silu(gate)).to(z.dtype).permute(0, 3, 1, 2)


def _forward(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _gate(y, z, weight, bias, eps).contiguous(memory_format=LAST)


def _adjoint(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> list[Tensor]:
    dtype = precision(y, z, weight, bias)
    wide_y, wide_z, wide_grad = (t.permute(0, 2, 3, 1).to(dtype) for t in (y, z, grad))
    gain, shift, size = weight.to(dtype), bias.to(dtype), weight.shape
    normed, mean, rstd = torch.native_layer_norm(wide_y, size, gain, shift, eps)
    grad_z = torch.ops.aten.silu_backward(normed.mul_(wide_grad), wide_z)
    grad_normed = F.silu(wide_z).mul_(wide_grad)
    grad_y, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad_normed, wide_y, size, mean, rstd, gain, shift, [True] * 3
    )
    return [
        _laid_last(grad_y.to(y.dtype)),
        _laid_last(grad_z.to(z.dtype)),
        grad_weight.to(weight.dtype),
        grad_bias.to(bias.dtype),
    ]


def _laid_last(rows: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), channels last in memory."""
    return rows.contiguous().permute(0, 3, 1, 2)


def _like(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(z, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> list[Tensor]:
    maps = [torch.empty_like(t, memory_format=LAST) for t in (y, z)]
    return [*maps, weight.new_empty(weight.shape), bias.new_empty(bias.shape)]


_gated = differentiable('mmssm::gated_norm', _forward, _adjoint, _like, _adjoint_like)
