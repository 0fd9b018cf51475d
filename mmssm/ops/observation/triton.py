"""The observation fused with the state fusion, as Triton kernels.

    y = C * fusion(h) + D * u
The fused states are never stored: the forward pass reads h, C and u and writes y; the
adjoint computes them anew where it needs them.  Patches, stencil and the adjoint's
gathering are those of the state fusion, and so are its promises: no atomics, the same
bits every time, one gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.fusion.triton import (
    cells,
    channels,
    constants,
    gather,
    offsets,
    patches,
    read,
    runs,
    stencil,
    tap_sums,
    taps,
    taps_adjoint,
)
from mmssm.ops.precision import precision


def observe_triton(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
) -> Tensor:
    """C * fusion(h) + D * u, laid out in memory as h.

    h, u: (B, D, H, W).  C: (B, 1, H, W).  D: (D,).  kernels: (K, D, 1, 3, 3).
    alpha: (K,).  Inputs of any floating-point dtype and strides are read as they are;
    sums and the result are in float64 if any of them is and in float32 otherwise.
    """
    return _observed(h, C, u, D, kernels, alpha, dilations)


@custom_op('mmssm::observe_triton', mutates_args=())
def _observed(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
) -> Tensor:
    y = _empty_observed(h, C, u, D, kernels, alpha, dilations)
    plan = patches(h)
    with torch.cuda.device_of(h):
        _observe[(len(h) * plan.count * plan.blocks,)](
            h,
            C,
            u,
            D.contiguous(),
            taps(kernels, alpha, y.dtype),
            y,
            *h.stride(),
            *_cell_strides(C),
            *u.stride(),
            *y.stride(),
            *h.shape[1:],
            *plan[3:],
            **constants(h, dilations, y.dtype),
        )
    return y


@custom_op('mmssm::observe_triton_adjoint', mutates_args=())
def _adjoint(
    grad: Tensor,
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all but the dilations."""
    dtype, plan = precision(h, C, u, D, kernels, alpha), patches(h)
    shape, fixed = (*h.shape[1:], *plan[3:]), constants(h, dilations, dtype)
    weights = taps(kernels, alpha, dtype)
    rows, each = runs(h)
    grad_h, grad_u = torch.empty_like(h), torch.empty_like(u)
    sums = weights.new_empty(rows, *weights.shape)
    sums_C = weights.new_empty(plan.blocks, *C.shape)
    sums_D = weights.new_empty(rows, len(D))
    with torch.cuda.device_of(h):
        _observe_back[(len(h) * plan.count * plan.blocks,)](
            grad,
            C,
            weights,
            grad_h,
            *grad.stride(),
            *_cell_strides(C),
            *grad_h.stride(),
            *shape,
            **fixed,
            num_stages=1,
        )
        _observe_sums[(rows * plan.blocks,)](
            grad,
            h,
            C,
            u,
            D.contiguous(),
            weights,
            grad_u,
            sums,
            sums_C,
            sums_D,
            *grad.stride(),
            *h.stride(),
            *_cell_strides(C),
            *u.stride(),
            *grad_u.stride(),
            *shape,
            len(h),
            each,
            **fixed,
            BLOCK_T=triton.next_power_of_2(len(weights)),
        )
    return (
        grad_h,
        sums_C.sum(0).to(C.dtype),
        grad_u,
        sums_D.sum(0).to(D.dtype),
        *taps_adjoint(sums, kernels, alpha),
    )


def _cell_strides(C: Tensor) -> tuple[int, int, int]:
    """Of batch, row and column."""
    return C.stride(0), C.stride(2), C.stride(3)


@triton.jit
def _observe(
    h,
    scale,
    u,
    skip,
    weights,
    y,
    h_b,
    h_c,
    h_i,
    h_j,
    scale_b,
    scale_i,
    scale_j,
    u_b,
    u_c,
    u_i,
    u_j,
    y_b,
    y_c,
    y_i,
    y_j,
    C,
    H,
    W,
    across,
    count,
    blocks,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """scale: C of the op.  skip: its D.  C: the channels."""
    program = tl.program_id(0)
    c, channel = channels(program % blocks, C, BLOCK_C)
    batch, _, _, i, j, seen = cells(
        program // blocks, H, W, across, count, BLOCK_H, BLOCK_W
    )
    h += batch * h_b
    fused = stencil(
        h,
        weights,
        i,
        j,
        c,
        seen,
        channel,
        H,
        W,
        C,
        h_c,
        h_i,
        h_j,
        DILATIONS,
        COUNT,
        ACC,
    )
    here = seen[:, None] & channel[None, :]
    at = batch * scale_b + i.to(tl.int64) * scale_i + j.to(tl.int64) * scale_j
    observed = tl.load(scale + at, mask=seen, other=0.0).to(ACC)[:, None] * fused
    at = batch * u_b + offsets(i, j, c, u_i, u_j, u_c)
    weight = tl.load(skip + c, mask=channel, other=0.0).to(ACC)
    observed += weight[None, :] * tl.load(u + at, mask=here, other=0.0).to(ACC)
    tl.store(y + batch * y_b + offsets(i, j, c, y_i, y_j, y_c), observed, mask=here)


@triton.jit
def _observe_back(
    grad,
    scale,
    weights,
    grad_h,
    grad_b,
    grad_c,
    grad_i,
    grad_j,
    scale_b,
    scale_i,
    scale_j,
    h_b,
    h_c,
    h_i,
    h_j,
    C,
    H,
    W,
    across,
    count,
    blocks,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """The gradient of h, from that of y times C."""
    program = tl.program_id(0)
    c, channel = channels(program % blocks, C, BLOCK_C)
    batch, top, left, i, j, seen = cells(
        program // blocks, H, W, across, count, BLOCK_H, BLOCK_W
    )
    sums = gather(
        grad + batch * grad_b,
        scale + batch * scale_b,
        weights,
        top,
        left,
        i,
        j,
        c,
        seen,
        channel,
        H,
        W,
        C,
        grad_c,
        grad_i,
        grad_j,
        scale_i,
        scale_j,
        DILATIONS,
        COUNT,
        BLOCK_H,
        BLOCK_W,
        ACC,
    )
    at = batch * h_b + offsets(i, j, c, h_i, h_j, h_c)
    tl.store(grad_h + at, sums, mask=seen[:, None] & channel[None, :])


@triton.jit
def _observe_sums(
    grad,
    h,
    scale,
    u,
    skip,
    weights,
    grad_u,
    sums,
    sums_C,
    sums_D,
    grad_b,
    grad_c,
    grad_i,
    grad_j,
    h_b,
    h_c,
    h_i,
    h_j,
    scale_b,
    scale_i,
    scale_j,
    u_b,
    u_c,
    u_i,
    u_j,
    grad_u_b,
    grad_u_c,
    grad_u_i,
    grad_u_j,
    C,
    H,
    W,
    across,
    count,
    blocks,
    batches,
    each,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """sums: (rows, 9 K, C).  sums_C: (blocks, B, 1, H, W).  sums_D: (rows, C)."""
    program = tl.program_id(0)
    block = program % blocks
    run = program // blocks
    c, channel = channels(block, C, BLOCK_C)
    skips = tl.load(skip + c, mask=channel, other=0.0).to(ACC)
    total = tl.zeros([BLOCK_T, BLOCK_C], dtype=ACC)
    total_D = tl.zeros([BLOCK_C], dtype=ACC)
    for place in range(run * each, tl.minimum((run + 1) * each, batches * count)):
        batch, _, _, i, j, seen = cells(place, H, W, across, count, BLOCK_H, BLOCK_W)
        here = seen[:, None] & channel[None, :]
        g = read(
            grad + batch * grad_b,
            None,
            i,
            j,
            c,
            seen,
            channel,
            grad_c,
            grad_i,
            grad_j,
            0,
            0,
            ACC,
        )
        at = batch * u_b + offsets(i, j, c, u_i, u_j, u_c)
        total_D += tl.sum(g * tl.load(u + at, mask=here, other=0.0).to(ACC), axis=0)
        at = batch * grad_u_b + offsets(i, j, c, grad_u_i, grad_u_j, grad_u_c)
        tl.store(grad_u + at, skips[None, :] * g, mask=here)

        at = batch * scale_b + i.to(tl.int64) * scale_i + j.to(tl.int64) * scale_j
        scales = tl.load(scale + at, mask=seen, other=0.0).to(ACC)
        sums_here, fused = tap_sums(
            scales[:, None] * g,
            h + batch * h_b,
            weights,
            i,
            j,
            c,
            seen,
            channel,
            H,
            W,
            C,
            h_c,
            h_i,
            h_j,
            DILATIONS,
            COUNT,
            BLOCK_T,
            ACC,
        )
        total += sums_here
        at = ((block * batches + batch) * H + i) * W + j
        tl.store(sums_C + at, tl.sum(g * fused, axis=1), mask=seen)
    t = tl.arange(0, BLOCK_T)
    at = (run.to(tl.int64) * 9 * COUNT + t[:, None]) * C + c[None, :]
    tl.store(sums + at, total, mask=(t < 9 * COUNT)[:, None] & channel[None, :])
    tl.store(sums_D + run.to(tl.int64) * C + c, total_D, mask=channel)


def _empty_observed(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
) -> Tensor:
    return torch.empty_like(h, dtype=precision(h, C, u, D, kernels, alpha))


@_adjoint.register_fake
def _(grad: Tensor, *inputs: Tensor | list[int]) -> tuple[Tensor, ...]:
    h, C, u, *parameters = inputs[:6]
    like = [t.new_empty(t.shape) for t in (C, *parameters)]
    return torch.empty_like(h), like[0], torch.empty_like(u), *like[1:]


def _save(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.dilations = inputs[6]


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_adjoint(grad, *ctx.saved_tensors, ctx.dilations), None


_observed.register_fake(_empty_observed)
_observed.register_autograd(_backward, setup_context=_save)
