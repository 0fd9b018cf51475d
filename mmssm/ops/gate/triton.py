"""The gated norm as Triton kernels: one pass over the maps each way.

A program takes several positions with all their channels.  Only the inputs are saved:
mean, deviation and gate are of what the adjoint holds in registers anyway.  Its
programs walk over the positions and add up the gradients of weight and bias in
registers, one row of a buffer for each program, added up by torch: no atomics, the same
bits every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.division import covering
from mmssm.ops.norm.triton import apart_and_scale, plan, through_norm
from mmssm.ops.operator import differentiable

PROGRAMS = 396  # of the adjoint: 3 for each multiprocessor of a large GPU
LAST = torch.channels_last


def _forward(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    y, z = y.contiguous(memory_format=LAST), z.contiguous(memory_format=LAST)
    out = torch.empty_like(z)
    rows, fixed = plan((y, z), weight, bias, eps)
    with torch.cuda.device_of(y):
        _gated[(covering(rows, fixed['ROWS']),)](
            y, z, weight.contiguous(), bias.contiguous(), out, rows, **fixed
        )
    return out


def _adjoint(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> list[Tensor]:
    grad, y, z = (t.contiguous(memory_format=LAST) for t in (grad, y, z))
    grad_y, grad_z = torch.empty_like(y), torch.empty_like(z)
    rows, fixed = plan((y, z), weight, bias, eps)
    programs = min(covering(rows, fixed['ROWS']), PROGRAMS)
    dtype = torch.float64 if fixed['ACC'] == tl.float64 else torch.float32
    sums = y.new_empty(2, programs, y.shape[1], dtype=dtype)
    with torch.cuda.device_of(y):
        _gated_back[(programs,)](
            grad,
            y,
            z,
            weight.contiguous(),
            bias.contiguous(),
            grad_y,
            grad_z,
            *sums,
            rows,
            **fixed,
        )
    of_weight, of_bias = sums.sum(1)
    return [grad_y, grad_z, of_weight.to(weight.dtype), of_bias.to(bias.dtype)]


@triton.jit(do_not_specialize=['count'])
def _gated(
    y,
    z,
    weight,
    bias,
    out,
    count,
    C: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """y, z, out: (count, C)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    mask = (row < count)[:, None] & (c < C)[None, :]
    at = row[:, None] * C + c[None, :]
    value = tl.load(y + at, mask=mask, other=0.0).to(ACC)
    gate = tl.load(z + at, mask=mask, other=0.0).to(ACC)
    apart, scale = apart_and_scale(value, mask, C, EPS)
    gain = tl.load(weight + c, mask=c < C, other=0.0).to(ACC)
    shift = tl.load(bias + c, mask=c < C, other=0.0).to(ACC)
    normed = apart * scale[:, None] * gain[None, :] + shift[None, :]
    tl.store(out + at, normed * gate / (1.0 + tl.exp(-gate)), mask=mask)


@triton.jit(do_not_specialize=['count'])
def _gated_back(
    grad,
    y,
    z,
    weight,
    bias,
    grad_y,
    grad_z,
    of_weight,
    of_bias,
    count,
    C: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """Maps: (count, C).  of_weight, of_bias: (programs, C), sums."""
    c = tl.arange(0, WIDTH)
    gain = tl.load(weight + c, mask=c < C, other=0.0).to(ACC)
    shift = tl.load(bias + c, mask=c < C, other=0.0).to(ACC)
    sum_weight = tl.zeros([ROWS, WIDTH], dtype=ACC)
    sum_bias = tl.zeros([ROWS, WIDTH], dtype=ACC)
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        seen = row < count
        mask = seen[:, None] & (c < C)[None, :]
        at = row[:, None] * C + c[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0).to(ACC)
        value = tl.load(y + at, mask=mask, other=0.0).to(ACC)
        gate = tl.load(z + at, mask=mask, other=0.0).to(ACC)
        apart, scale = apart_and_scale(value, mask, C, EPS)
        scale = tl.where(seen, scale, 0.0)
        standard = apart * scale[:, None]
        sigmoid = 1.0 / (1.0 + tl.exp(-gate))
        normed = standard * gain[None, :] + shift[None, :]
        slope = sigmoid * (1.0 + gate * (1.0 - sigmoid))
        tl.store(grad_z + at, g * normed * slope, mask=mask)
        g = g * gate * sigmoid
        sum_weight += g * standard
        sum_bias += g
        result = through_norm(g * gain[None, :], standard, scale, C)
        tl.store(grad_y + at, result, mask=mask)
    at = tl.program_id(0) * C + c
    tl.store(of_weight + at, tl.sum(sum_weight, axis=0), mask=c < C)
    tl.store(of_bias + at, tl.sum(sum_bias, axis=0), mask=c < C)


def _like(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(z, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> list[Tensor]:
    maps = [torch.empty_like(t, memory_format=LAST) for t in (y, z)]
    return [*maps, weight.new_empty(weight.shape), bias.new_empty(bias.shape)]


gated_norm_triton = differentiable(
    'mmssm::gated_norm_triton', _forward, _adjoint, _like, _adjoint_like
)
