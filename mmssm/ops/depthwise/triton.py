"""The depthwise convolution as Triton kernels that walk down the rows of a map.

A program owns neighbouring columns and channels and a band of rows, several of which it
computes at a time: what they read is fetched at once, and what they share stays in the
cache.  Maps lie channels last in memory.

One kernel of the adjoint takes the neighbours of one map and the numbers of another at
the cells themselves.  Without an activation these are the gradient and the map: their
products are the gradients of the nine taps, and the convolution with the taps turned
around is that of the map.  With one they are the map and the gradient: the convolution
is computed anew, and the gradient before the activation from it, which the kernel of
the forward pass convolves afterwards.  Sums run in registers and go through a buffer
with a row for each program, added up by torch: no atomics, the same bits every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.division import covering
from mmssm.ops.operator import differentiable

COLUMNS = 8
CHANNELS = 64  # 128 bytes of bfloat16
ROWS = 8  # computed at a time; 2 where registers are needed for more
REGISTERS = 168  # of a thread of the adjoint: three programs for a multiprocessor
PROGRAMS = 2112  # 16 for each multiprocessor of a large GPU
LAST = torch.channels_last
SIZES = ['H', 'W', 'bands', 'each']


def depthwise_conv_triton(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str | None, residual: bool
) -> Tensor:
    """Same shapes as the naive twin; maps of any dtype, the result channels last."""
    return _convolved(x, weight, bias, activation == 'silu', residual)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, silu: bool, residual: bool
) -> Tensor:
    x = x.contiguous(memory_format=LAST)
    y = torch.empty_like(x)
    grid, sizes, fixed = _plan(x, weight, bias)
    with torch.cuda.device_of(x):
        _convolve[grid](
            x,
            weight.contiguous(),
            bias.contiguous(),
            x,
            y,
            *sizes,
            SILU=silu,
            ADD=residual,
            FLIP=False,
            **fixed,
        )
    return y


def _adjoint(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool, residual: bool
) -> list[Tensor]:
    grad, x = grad.contiguous(memory_format=LAST), x.contiguous(memory_format=LAST)
    grid, sizes, fixed = _plan(x, weight, bias)
    channels = x.shape[1]
    parts = grid[0] // covering(channels, CHANNELS)
    dtype = torch.float64 if fixed['ACC'] == tl.float64 else torch.float32
    sums = x.new_empty(parts, 10 * channels, dtype=dtype)
    weight, bias = weight.contiguous(), bias.contiguous()
    grad_x = torch.empty_like(x)
    with torch.cuda.device_of(x):
        before = torch.empty_like(x) if silu else grad_x
        _gradients[grid](
            x if silu else grad,
            grad if silu else x,
            weight,
            bias,
            before,
            sums,
            *sizes,
            SILU=silu,
            ADD=residual,
            **fixed | {'ROWS': 2 if silu else ROWS, 'maxnreg': REGISTERS},
        )
        if silu:
            _convolve[grid](
                before,
                weight,
                bias,
                grad,
                grad_x,
                *sizes,
                SILU=False,
                ADD=residual,
                FLIP=True,
                **fixed,
            )
    of_weight, of_bias = sums.sum(0).split([9 * channels, channels])
    return [
        grad_x,
        of_weight.to(weight.dtype).view(weight.shape),
        of_bias.to(bias.dtype),
    ]


def _plan(
    x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[tuple[int], tuple[int, ...], dict]:
    """The grid; H, W, C, bands and the rows of each; what kernels are compiled for.

    A band is a multiple of what is computed at a time: only the map's end is cut.
    """
    batch, channels, height, width = x.shape
    patches = covering(width, COLUMNS) * covering(channels, CHANNELS) * batch
    bands = min(covering(PROGRAMS, patches), covering(height, ROWS))
    each = covering(height, bands * ROWS) * ROWS
    bands = covering(height, each)
    double = torch.float64 in (x.dtype, weight.dtype, bias.dtype)
    return (
        (patches * bands,),
        (height, width, channels, bands, each),
        dict(
            ROWS=ROWS,
            BLOCK_W=COLUMNS,
            BLOCK_C=CHANNELS,
            ACC=tl.float64 if double else tl.float32,
            num_warps=4,
        ),
    )


@triton.jit
def _place(H, W, C, bands, each, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Which part of the map is this program's.

    part: of the sums; base: of its sample; first, last: rows; j: columns;
    c: channels.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK_C)
    across = tl.cdiv(W, BLOCK_W)
    part = program // blocks
    j = part % across * BLOCK_W + tl.arange(0, BLOCK_W)
    c = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    first = part // across % bands * each
    base = (part // (across * bands)).to(tl.int64) * H * W * C
    return part, base, first, tl.minimum(first + each, H), j, c


@triton.jit
def _taps(weight, c, C, FLIP: tl.constexpr, ACC: tl.constexpr):
    """One (BLOCK_C,) for each tap."""
    taps = ()
    for k in tl.static_range(9):
        at = c * 9 + (8 - k if FLIP else k)
        taps = taps + (tl.load(weight + at, mask=c < C, other=0.0).to(ACC),)
    return taps


@triton.jit
def _near(maps, top, j, c, H, W, C, ROWS: tl.constexpr):
    """Left, middle and right of ROWS + 2 rows, the first one above `top`."""
    tiles = ()
    at = (j * C)[:, None] + c[None, :]
    channel = (c < C)[None, :]
    for r in tl.static_range(ROWS + 2):
        row = top + (r - 1)
        inside = channel & ((row >= 0) & (row < H))
        cells = maps + row.to(tl.int64) * W * C
        left = inside & ((j > 0) & (j <= W))[:, None]
        here = inside & (j < W)[:, None]
        right = inside & (j + 1 < W)[:, None]
        tiles = tiles + (
            tl.load(cells + (at - C), mask=left, other=0.0),
            tl.load(cells + at, mask=here, other=0.0),
            tl.load(cells + (at + C), mask=right, other=0.0),
        )
    return tiles


@triton.jit
def _sum(tiles, taps, level, r: tl.constexpr, ACC: tl.constexpr):
    """The convolution at row r of the tiles, (BLOCK_W, BLOCK_C)."""
    total = level[None, :] + taps[0][None, :] * tiles[3 * r].to(ACC)
    for k in tl.static_range(1, 9):
        total += taps[k][None, :] * tiles[3 * r + k].to(ACC)
    return total


@triton.jit(do_not_specialize=SIZES)
def _convolve(
    x,
    weight,
    bias,
    other,
    y,
    H,
    W,
    C,
    bands,
    each,
    SILU: tl.constexpr,
    ADD: tl.constexpr,
    FLIP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """x, other, y: (B, H, W, C).  ADD: x.

    FLIP: the adjoint, taps turned around and without bias; ADD is of other.
    """
    _, base, first, last, j, c = _place(H, W, C, bands, each, BLOCK_W, BLOCK_C)
    taps = _taps(weight, c, C, FLIP, ACC)
    if FLIP:
        level = tl.zeros([BLOCK_C], dtype=ACC)
    else:
        level = tl.load(bias + c, mask=c < C, other=0.0).to(ACC)
    at = (j * C)[:, None] + c[None, :]
    here = (j < W)[:, None] & (c < C)[None, :]
    for step in range(0, tl.cdiv(last - first, ROWS)):
        top = first + step * ROWS
        tiles = _near(x + base, top, j, c, H, W, C, ROWS)
        for r in tl.static_range(ROWS):
            mask = here & (top + r < last)
            cells = base + (top + r).to(tl.int64) * W * C
            total = _sum(tiles, taps, level, r, ACC)
            if SILU:
                total = total / (1.0 + tl.exp(-total))
            if ADD and FLIP:
                total += tl.load(other + cells + at, mask=mask, other=0.0).to(ACC)
            elif ADD:
                total += tiles[3 * r + 4].to(ACC)
            tl.store(y + cells + at, total, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _gradients(
    near,
    here,
    weight,
    bias,
    out,
    sums,
    H,
    W,
    C,
    bands,
    each,
    SILU: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """With SILU near is x, here the gradient and out that before the activation.

    Without, near is the gradient, here x and out the gradient of x, to which ADD adds
    that of the result.  All: (B, H, W, C).  sums: (parts, 10 C), for the weight, as
    (C, 9), and then for the bias.
    """
    part, base, first, last, j, c = _place(H, W, C, bands, each, BLOCK_W, BLOCK_C)
    taps = _taps(weight, c, C, not SILU, ACC)
    if SILU:
        level = tl.load(bias + c, mask=c < C, other=0.0).to(ACC)
    else:
        level = tl.zeros([BLOCK_C], dtype=ACC)
    at = (j * C)[:, None] + c[None, :]
    own = (j < W)[:, None] & (c < C)[None, :]
    totals = ()
    for _ in tl.static_range(10):
        totals = totals + (tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC),)
    for step in range(0, tl.cdiv(last - first, ROWS)):
        top = first + step * ROWS
        tiles = _near(near + base, top, j, c, H, W, C, ROWS)
        for r in tl.static_range(ROWS):
            mask = own & (top + r < last)
            cells = base + (top + r).to(tl.int64) * W * C
            factor = tl.load(here + cells + at, mask=mask, other=0.0).to(ACC)
            total = _sum(tiles, taps, level, r, ACC)
            if SILU:
                sigmoid = 1.0 / (1.0 + tl.exp(-total))
                factor = factor * sigmoid * (1.0 + total * (1.0 - sigmoid))
                tl.store(out + cells + at, factor, mask=mask)
                shift = factor
            else:
                shift = tiles[3 * r + 4].to(ACC)  # zero beyond the map
                if ADD:
                    total += shift
                tl.store(out + cells + at, total, mask=mask)
            added = ()
            for k in tl.static_range(9):
                added = added + (totals[k] + factor * tiles[3 * r + k].to(ACC),)
            totals = added + (totals[9] + shift,)
    sums += part.to(tl.int64) * 10 * C
    for k in tl.static_range(9):
        to = 9 * c + (k if SILU else 8 - k)
        tl.store(sums + to, tl.sum(totals[k], axis=0), mask=c < C)
    tl.store(sums + 9 * C + c, tl.sum(totals[9], axis=0), mask=c < C)


def _like(
    x: Tensor, weight: Tensor, bias: Tensor, silu: bool, residual: bool
) -> Tensor:
    return torch.empty_like(x, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool, residual: bool
) -> list[Tensor]:
    grad_x = torch.empty_like(x, memory_format=LAST)
    return [grad_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape)]


_convolved = differentiable(
    'mmssm::depthwise_triton', _forward, _adjoint, _like, _adjoint_like
)
