"""The gated norm as Triton kernels: one pass over the maps each way.

A program takes a few positions with all their channels.  Mean and 1 / deviation are
saved; the norm and the gate are computed anew in the adjoint, whose programs walk over
several positions and add up the gradients of weight and bias in registers, one row of a
buffer for each program, added up by torch: no atomics, the same bits every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.precision import precision

TILE = 2048  # numbers of a tile
PROGRAMS = 528  # of the adjoint: 4 for each multiprocessor of a large GPU


def gated_norm_triton(
    y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Same shapes as the naive twin; maps of any dtype, read channels last."""
    y, z = (t.permute(0, 2, 3, 1) for t in (y, z))
    return _gated(y, z, weight, bias, eps)[0].permute(0, 3, 1, 2)


def _tile(channels: int) -> tuple[int, int, int]:
    """Positions and channels of a tile, and warps: 16 numbers for each thread."""
    width = triton.next_power_of_2(channels)
    rows = max(1, TILE // width)
    return rows, width, max(1, min(8, rows * width // 512))


@custom_op('mmssm::gated_norm_triton', mutates_args=())
def _gated(
    y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result (B, H, W, C); mean and 1 / deviation (B, H, W)."""
    y, z = y.contiguous(), z.contiguous()
    out = torch.empty_like(z)
    dtype = precision(y, z, weight, bias)
    mean, rstd = (y.new_empty(y.shape[:3], dtype=dtype) for _ in range(2))
    rows, width, warps = _tile(y.shape[-1])
    count = mean.numel()
    with torch.cuda.device_of(y):
        _forward[(triton.cdiv(count, rows),)](
            y,
            z,
            weight.contiguous(),
            bias.contiguous(),
            out,
            mean,
            rstd,
            count,
            y.shape[-1],
            EPS=eps,
            ROWS=rows,
            WIDTH=width,
            ACC=tl.float64 if mean.dtype == torch.float64 else tl.float32,
            num_warps=warps,
        )
    return out, mean, rstd


@custom_op('mmssm::gated_norm_triton_adjoint', mutates_args=())
def _adjoint(
    grad: Tensor,
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, y, z = (t.contiguous() for t in (grad, y, z))
    grad_y, grad_z = torch.empty_like(y), torch.empty_like(z)
    channels, count = y.shape[-1], mean.numel()
    rows, width, warps = _tile(channels)
    programs = min(triton.cdiv(count, rows), PROGRAMS)
    sums = mean.new_empty(2, programs, channels)
    with torch.cuda.device_of(y):
        _backward_kernel[(programs,)](
            grad,
            y,
            z,
            weight.contiguous(),
            bias.contiguous(),
            mean,
            rstd,
            grad_y,
            grad_z,
            sums,
            count,
            channels,
            ROWS=rows,
            WIDTH=width,
            ACC=tl.float64 if mean.dtype == torch.float64 else tl.float32,
            num_warps=warps,
        )
    grad_weight, grad_bias = sums.sum(1)
    return (
        grad_y,
        grad_z,
        grad_weight.to(weight.dtype, copy=True),
        grad_bias.to(bias.dtype, copy=True),
    )


@triton.jit(do_not_specialize=['count'])
def _forward(
    y,
    z,
    weight,
    bias,
    out,
    mean,
    rstd,
    count,
    C,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """y, z, out: (count, C).  mean, rstd: (count,)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    channel = c < C
    seen = row < count
    mask = seen[:, None] & channel[None, :]
    at = row[:, None] * C + c[None, :]
    value = tl.load(y + at, mask=mask, other=0.0).to(ACC)
    gate = tl.load(z + at, mask=mask, other=0.0).to(ACC)
    centre = tl.sum(value, axis=1) / C
    apart = tl.where(mask, value - centre[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=1) / C + EPS)
    gain = tl.load(weight + c, mask=channel, other=0.0).to(ACC)
    shift = tl.load(bias + c, mask=channel, other=0.0).to(ACC)
    normed = apart * scale[:, None] * gain[None, :] + shift[None, :]
    tl.store(out + at, normed * gate / (1.0 + tl.exp(-gate)), mask=mask)
    tl.store(mean + row, centre, mask=seen)
    tl.store(rstd + row, scale, mask=seen)


@triton.jit(do_not_specialize=['count'])
def _backward_kernel(
    grad,
    y,
    z,
    weight,
    bias,
    mean,
    rstd,
    grad_y,
    grad_z,
    sums,
    count,
    C,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """Maps: (count, C).  sums: (2, programs, C), of weight and bias."""
    c = tl.arange(0, WIDTH)
    channel = c < C
    gain = tl.load(weight + c, mask=channel, other=0.0).to(ACC)
    shift = tl.load(bias + c, mask=channel, other=0.0).to(ACC)
    sum_weight = tl.zeros([ROWS, WIDTH], dtype=ACC)
    sum_bias = tl.zeros([ROWS, WIDTH], dtype=ACC)
    programs = tl.num_programs(0)
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), programs):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        seen = row < count
        mask = seen[:, None] & channel[None, :]
        at = row[:, None] * C + c[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0).to(ACC)
        value = tl.load(y + at, mask=mask, other=0.0).to(ACC)
        gate = tl.load(z + at, mask=mask, other=0.0).to(ACC)
        centre = tl.load(mean + row, mask=seen, other=0.0)
        scale = tl.load(rstd + row, mask=seen, other=0.0)
        standard = tl.where(mask, (value - centre[:, None]) * scale[:, None], 0.0)
        sigmoid = 1.0 / (1.0 + tl.exp(-gate))
        normed = standard * gain[None, :] + shift[None, :]
        slope = sigmoid * (1.0 + gate * (1.0 - sigmoid))
        tl.store(grad_z + at, g * normed * slope, mask=mask)
        g = g * gate * sigmoid
        sum_weight += g * standard
        sum_bias += g
        g = g * gain[None, :]
        along = tl.sum(g * standard, axis=1) / C
        level = tl.sum(g, axis=1) / C
        result = (g - level[:, None] - standard * along[:, None]) * scale[:, None]
        tl.store(grad_y + at, result, mask=mask)
    at = tl.program_id(0) * C + c
    tl.store(sums + at, tl.sum(sum_weight, axis=0), mask=channel)
    tl.store(sums + programs * C + at, tl.sum(sum_bias, axis=0), mask=channel)


@_gated.register_fake
def _(
    y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = precision(y, z, weight, bias)
    mean, rstd = (y.new_empty(y.shape[:3], dtype=dtype) for _ in range(2))
    return z.new_empty(z.shape), mean, rstd


@_adjoint.register_fake
def _(
    grad: Tensor,
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (y, z, weight, bias))


def _save(ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])


def _backward(
    ctx: FunctionCtx, grad: Tensor, *unused: Tensor
) -> tuple[Tensor | None, ...]:
    return *_adjoint(grad, *ctx.saved_tensors), None


_gated.register_autograd(_backward, setup_context=_save)
