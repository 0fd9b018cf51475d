"""The depthwise convolution by torch's own, which calls a library.

What follows the convolution saves nothing: the convolution is computed again in the
backward pass.  Without one, what runs is torch's own operators alone, which can be
counted, exported and fused.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.operator import differentiable
from mmssm.ops.precision import no_autocast

LAST = torch.channels_last


def depthwise_conv_library(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str | None, residual: bool
) -> Tensor:
    """Same shapes as the naive twin; all in x's dtype."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    with no_autocast(x):
        if activation == 'silu' and torch.is_grad_enabled():
            y = _conv_silu(x, weight, bias)
        else:
            y = _conv(x, weight, bias)
            y = F.silu(y) if activation == 'silu' else y
    return x + y if residual else y


def _conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, _as_rows(weight), bias, padding=1, groups=x.shape[1])


def _as_rows(weight: Tensor) -> Tensor:
    """The weights, or their gradient, with strides (9, 9, 3, 1).

    The library gives gradients with (9, 1, 3, 1) for maps that lie channels last: the
    same memory, for there is one channel, but DDP compares the numbers and warns.
    """
    return weight.flatten().view(weight.shape)


def _forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(_laid_last(_conv(x, weight, bias)), inplace=True)


def _adjoint(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    y = _conv(x, weight, bias)
    grad = torch.ops.aten.silu_backward(grad, y)
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [x.shape[1]],
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        x.shape[1],
        [True, True, False],
    )
    return [_laid_last(of_x), _as_rows(of_weight), grad.sum((0, 2, 3))]


def _laid_last(x: Tensor) -> Tensor:
    """Channels last in memory, the strides that compiled code is promised."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _like(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> list[Tensor]:
    grad_x = torch.empty_like(x, memory_format=LAST)
    return [grad_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape)]


_conv_silu = differentiable(
    'mmssm::depthwise_silu', _forward, _adjoint, _like, _adjoint_like
)
