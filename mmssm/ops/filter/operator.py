"""The fused filter and its kernels as operators that torch.compile keeps whole."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.filter.fused import apply_pieces, empty_as, filter_adjoint, filter_pieces
from mmssm.ops.filter.kernels import KernelBank, KernelBankAdjoint
from mmssm.ops.filter.plan import Plan
from mmssm.ops.precision import no_autocast


def check_finite(*tensors: Tensor) -> None:
    """Raise ValueError for values that are not finite, where looking is free.

    On other devices than the CPU looking would wait for all work queued there.
    """
    for name, tensor in zip('ABC', tensors, strict=True):
        if tensor.device.type == 'cpu' and not tensor.isfinite().all():
            raise ValueError(
                f'{name} has values that are not finite; the parameters it is made of '
                'have diverged: lower the learning rate or clip gradients'
            )


@custom_op('mmssm::ssm2d', mutates_args=())
def filter_maps(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
    states: str,
) -> Tensor:
    """x filtered, in the precision of A; shapes as in `fused`."""
    check_finite(A, B, C)
    plan = Plan((height, width), tolerance, states)
    with no_autocast(x):
        pieces = filter_pieces(x.shape, A, B, C, skip, plan)
        return apply_pieces(x, pieces, A.real.dtype)


@custom_op('mmssm::ssm2d_adjoint', mutates_args=())
def _filter_adjoint(
    grad: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
    states: str,
    needs_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    plan = Plan((height, width), tolerance, states)
    with no_autocast(x):
        return filter_adjoint(grad, x, A, B, C, skip, plan, needs_x)


@custom_op('mmssm::ssm2d_kernel', mutates_args=())
def kernels_of(
    A: Tensor, B: Tensor, C: Tensor, height: int, width: int, states: str
) -> Tensor:
    """The causal kernels, (directions, channels, height, width)."""
    check_finite(A, B, C)
    with no_autocast(A):
        bank = KernelBank(A, B, C, slice(A.shape[1]), (height, width), states)
        kernels = bank.kernels().permute(1, 2, 0, 3, 4)
    return kernels.flatten(1, 2).contiguous()


@custom_op('mmssm::ssm2d_kernel_adjoint', mutates_args=())
def _kernels_adjoint(
    grad: Tensor, A: Tensor, B: Tensor, C: Tensor, states: str
) -> tuple[Tensor, Tensor, Tensor]:
    ssms, size = A.shape[1], tuple(grad.shape[2:])
    with no_autocast(A):
        bank = KernelBankAdjoint(A, B, C, slice(ssms), size, states)
        bank.add(grad.unflatten(1, (-1, ssms)).permute(2, 0, 1, 3, 4))
        grad_A, grad_B, grad_C = bank.gradients()
    return grad_A, grad_B, grad_C.flatten(2, 3).contiguous()


@filter_maps.register_fake
def _(x: Tensor, A: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(x, dtype=A.real.dtype)


@_filter_adjoint.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    *rest: object,
) -> tuple[Tensor, ...]:
    needs_x = rest[-1]
    return (
        torch.empty_like(x) if needs_x else x.new_empty(0),
        *(empty_as(t) for t in (A, B, C)),
        grad.new_empty(0) if skip is None else empty_as(skip),
    )


@kernels_of.register_fake
def _(A: Tensor, B: Tensor, C: Tensor, height: int, width: int, states: str) -> Tensor:
    size = (*C.shape[1:3], height, width)
    return torch.empty(size, dtype=A.real.dtype, device=A.device)


@_kernels_adjoint.register_fake
def _(grad: Tensor, A: Tensor, B: Tensor, C: Tensor, states: str) -> tuple[Tensor, ...]:
    return tuple(empty_as(t) for t in (A, B, C))


def _save_filter(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.plan = inputs[5:]


def _filter_backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    grads = _filter_adjoint(grad, *ctx.saved_tensors, *ctx.plan, needs[0])
    kept = [g if need else None for g, need in zip(grads, needs[:5], strict=True)]
    return *kept, *(None for _ in ctx.plan)


def _save_kernels(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.states = inputs[5]


def _kernels_backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_kernels_adjoint(grad, *ctx.saved_tensors, ctx.states), None, None, None


filter_maps.register_autograd(_filter_backward, setup_context=_save_filter)
kernels_of.register_autograd(_kernels_backward, setup_context=_save_kernels)
