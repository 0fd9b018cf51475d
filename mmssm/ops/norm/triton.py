"""LayerNorm over channels as Triton kernels: one pass over the maps each way.

A program takes several positions with all their channels.  Only the inputs are saved:
mean and deviation are of what the adjoint holds in registers anyway.  Its programs walk
over the positions and add up the gradients of weight and bias in registers, one row of
a buffer for each program, added up by torch: no atomics, the same bits every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.division import covering, power_of_2
from mmssm.ops.operator import differentiable

TILE = 2048  # numbers of a tile
PROGRAMS = 528  # of the adjoint: 4 for each multiprocessor of a large GPU
LAST = torch.channels_last


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    x = x.contiguous(memory_format=LAST)
    y = torch.empty_like(x)
    rows, fixed = plan((x,), weight, bias, eps)
    with torch.cuda.device_of(x):
        _norm[(covering(rows, fixed['ROWS']),)](
            x, weight.contiguous(), bias.contiguous(), y, rows, **fixed
        )
    return y


def _adjoint(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> list[Tensor]:
    grad, x = grad.contiguous(memory_format=LAST), x.contiguous(memory_format=LAST)
    grad_x = torch.empty_like(x)
    rows, fixed = plan((x,), weight, bias, eps)
    programs = min(covering(rows, fixed['ROWS']), PROGRAMS)
    dtype = torch.float64 if fixed['ACC'] == tl.float64 else torch.float32
    sums = x.new_empty(2, programs, x.shape[1], dtype=dtype)
    with torch.cuda.device_of(x):
        _norm_back[(programs,)](
            grad, x, weight.contiguous(), grad_x, *sums, rows, **fixed
        )
    of_weight, of_bias = sums.sum(1)
    return [grad_x, of_weight.to(weight.dtype), of_bias.to(bias.dtype)]


def plan(
    maps: tuple[Tensor, ...], weight: Tensor, bias: Tensor, eps: float
) -> tuple[int, dict]:
    """Positions, and what the kernels are compiled for: 16 numbers for each thread.

    maps: of one shape, (B, C, H, W).
    """
    channels = maps[0].shape[1]
    width = power_of_2(channels)
    rows = max(1, TILE // width)
    double = torch.float64 in [t.dtype for t in (*maps, weight, bias)]
    return maps[0].numel() // channels, dict(
        C=channels,
        EPS=eps,
        ROWS=rows,
        WIDTH=width,
        ACC=tl.float64 if double else tl.float32,
        num_warps=max(1, min(8, rows * width // 512)),
    )


@triton.jit
def apart_and_scale(value, mask, C: tl.constexpr, EPS: tl.constexpr):
    """What a position's channels lie apart from their mean, and 1 / deviation."""
    centre = tl.sum(value, axis=1) / C
    apart = tl.where(mask, value - centre[:, None], 0.0)
    return apart, 1.0 / tl.sqrt(tl.sum(apart * apart, axis=1) / C + EPS)


@triton.jit
def through_norm(g, standard, scale, C: tl.constexpr):
    """The gradient of the map, from that of its standardised values."""
    along = tl.sum(g * standard, axis=1) / C
    level = tl.sum(g, axis=1) / C
    return (g - level[:, None] - standard * along[:, None]) * scale[:, None]


@triton.jit(do_not_specialize=['count'])
def _norm(
    x,
    weight,
    bias,
    y,
    count,
    C: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """x, y: (count, C)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    mask = (row < count)[:, None] & (c < C)[None, :]
    at = row[:, None] * C + c[None, :]
    value = tl.load(x + at, mask=mask, other=0.0).to(ACC)
    apart, scale = apart_and_scale(value, mask, C, EPS)
    gain = tl.load(weight + c, mask=c < C, other=0.0).to(ACC)
    shift = tl.load(bias + c, mask=c < C, other=0.0).to(ACC)
    result = apart * scale[:, None] * gain[None, :] + shift[None, :]
    tl.store(y + at, result, mask=mask)


@triton.jit(do_not_specialize=['count'])
def _norm_back(
    grad,
    x,
    weight,
    grad_x,
    of_weight,
    of_bias,
    count,
    C: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """grad, x, grad_x: (count, C).  of_weight, of_bias: (programs, C), sums."""
    c = tl.arange(0, WIDTH)
    gain = tl.load(weight + c, mask=c < C, other=0.0).to(ACC)
    sum_weight = tl.zeros([ROWS, WIDTH], dtype=ACC)
    sum_bias = tl.zeros([ROWS, WIDTH], dtype=ACC)
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        seen = row < count
        mask = seen[:, None] & (c < C)[None, :]
        at = row[:, None] * C + c[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0).to(ACC)
        value = tl.load(x + at, mask=mask, other=0.0).to(ACC)
        apart, scale = apart_and_scale(value, mask, C, EPS)
        scale = tl.where(seen, scale, 0.0)
        standard = apart * scale[:, None]
        sum_weight += g * standard
        sum_bias += g
        result = through_norm(g * gain[None, :], standard, scale, C)
        tl.store(grad_x + at, result, mask=mask)
    at = tl.program_id(0) * C + c
    tl.store(of_weight + at, tl.sum(sum_weight, axis=0), mask=c < C)
    tl.store(of_bias + at, tl.sum(sum_bias, axis=0), mask=c < C)


def _like(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> list[Tensor]:
    grad_x = torch.empty_like(x, memory_format=LAST)
    return [grad_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape)]


channel_norm_triton = differentiable(
    'mmssm::channel_norm_triton', _forward, _adjoint, _like, _adjoint_like
)
