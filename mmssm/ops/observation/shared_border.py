"""The observation in one operator that saves nothing but its inputs.

The fused states are computed again for the adjoint: three depthwise convolutions, not
a map kept for every block of a network.  Maps lie channels last in memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.fusion.shared_border import fuse, fuse_adjoint, scaled_taps
from mmssm.ops.precision import no_autocast


def observe_shared_border(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
) -> Tensor:
    """Shapes as the naive twin; the result lies channels last."""
    return _observe(h, C, u, D, scaled_taps(kernels, alpha), dilations)


@custom_op('mmssm::observe', mutates_args=())
def _observe(
    h: Tensor, C: Tensor, u: Tensor, D: Tensor, taps: Tensor, dilations: Sequence[int]
) -> Tensor:
    return fuse(h, taps, dilations).mul_(C).addcmul_(u, D[:, None, None])


@custom_op('mmssm::observe_adjoint', mutates_args=())
def _observe_adjoint(
    grad: Tensor,
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    taps: Tensor,
    dilations: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_C = (fuse(h, taps, dilations).mul_(grad)).sum(1, keepdim=True)
    grad_u = grad * D[:, None, None]
    grad_D = (grad * u).sum((0, 2, 3))
    grad_h, grad_taps = fuse_adjoint(grad * C, h, taps, dilations)
    return grad_h, grad_C, grad_u, grad_D, grad_taps


@_observe.register_fake
def _(h: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(h, memory_format=torch.channels_last)


@_observe_adjoint.register_fake
def _(
    grad: Tensor,
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    taps: Tensor,
    *rest: object,
) -> tuple[Tensor, ...]:
    grad_h = torch.empty_like(h, memory_format=torch.channels_last)
    sums = grad.sum(1, keepdim=True)
    return (
        grad_h,
        sums,
        grad * D[:, None, None],
        D.new_empty(D.shape),
        taps.new_empty(taps.shape),
    )


def _save(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.dilations = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    with no_autocast(grad):
        return *_observe_adjoint(grad, *ctx.saved_tensors, ctx.dilations), None


_observe.register_autograd(_backward, setup_context=_save)
