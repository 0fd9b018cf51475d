"""The depthwise convolution as Triton kernels that walk down the rows of a map.

A program owns neighbouring columns and channels and a band of rows.  It reads every row
once, with the columns to the left and to the right, and adds its part to the three
rows of the result that it touches, which stay in registers.

The adjoint walks the same way with the last three rows of the map in registers: it
computes the convolution anew, from it the gradient before the activation, and adds up
the gradients of the nine taps and of the bias, reduced once for each program into a
buffer that torch sums: no atomics, the same bits every time.  The gradient of the map
is the convolution of that gradient with the taps turned around.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.precision import precision

COLUMNS = 8
CHANNELS = 64  # 128 bytes of bfloat16
PROGRAMS = 2112  # 16 for each multiprocessor of a large GPU
SIZES = ['H', 'W', 'bands', 'each']


def depthwise_conv_triton(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str | None, residual: bool
) -> Tensor:
    """Same shapes as the naive twin; maps of any dtype, read channels last."""
    rows = x.permute(0, 2, 3, 1)
    y = _convolved(rows, weight, bias, activation == 'silu', residual)
    return y.permute(0, 3, 1, 2)


def _plan(x: Tensor) -> tuple[tuple[int], int, int]:
    """The grid, the bands and the rows of each; x: (B, H, W, C)."""
    batch, height, width, channels = x.shape
    patches = triton.cdiv(width, COLUMNS) * triton.cdiv(channels, CHANNELS) * batch
    bands = max(1, min(triton.cdiv(PROGRAMS, patches), triton.cdiv(height, 4)))
    each = triton.cdiv(height, bands)
    bands = triton.cdiv(height, each)
    return (patches * bands,), bands, each


@custom_op('mmssm::depthwise_triton', mutates_args=())
def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor, silu: bool, residual: bool
) -> Tensor:
    """x: (B, H, W, C)."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _convolve(x, weight, bias, y, y, silu, 1 if residual else 0, flip=False)
    return y


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    other: Tensor,
    y: Tensor,
    silu: bool,
    add: int,
    flip: bool,
) -> None:
    """Fill y; add: 1 adds x and 2 adds `other`."""
    grid, bands, each = _plan(x)
    double = precision(x, weight, bias) == torch.float64
    with torch.cuda.device_of(x):
        _forward[grid](
            x,
            weight.contiguous(),
            bias.contiguous(),
            other,
            y,
            *x.shape[1:],
            bands,
            each,
            SILU=silu,
            ADD=add,
            FLIP=flip,
            BLOCK_W=COLUMNS,
            BLOCK_C=CHANNELS,
            ACC=tl.float64 if double else tl.float32,
            num_warps=2,
        )


@custom_op('mmssm::depthwise_triton_adjoint', mutates_args=())
def _adjoint(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    silu: bool,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, x = grad.contiguous(), x.contiguous()
    grid, bands, each = _plan(x)
    channels = x.shape[3]
    dtype = precision(x, weight, bias)
    before = torch.empty_like(x) if silu else grad
    blocks = triton.cdiv(channels, CHANNELS)
    sums = x.new_empty(10, grid[0] // blocks, channels, dtype=dtype)
    with torch.cuda.device_of(x):
        _sums[grid](
            grad,
            x,
            weight.contiguous(),
            bias.contiguous(),
            before,
            sums,
            *x.shape[1:],
            bands,
            each,
            SILU=silu,
            BLOCK_W=COLUMNS,
            BLOCK_C=CHANNELS,
            ACC=tl.float64 if dtype == torch.float64 else tl.float32,
            num_warps=4,
        )
    grad_x = torch.empty_like(x)
    add = 2 if residual else 0
    _convolve(before, weight, bias, grad, grad_x, False, add, flip=True)
    sums = sums.sum(1)
    return (
        grad_x,
        sums[:9].T.to(weight.dtype).reshape(weight.shape).contiguous(),
        sums[9].to(bias.dtype, copy=True),
    )


@triton.jit
def _place(H, W, C, bands, each, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's rows, where its columns and channels are, and their masks."""
    program = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK_C)
    across = tl.cdiv(W, BLOCK_W)
    block = program % blocks
    part = program // blocks
    column = part % across * BLOCK_W + tl.arange(0, BLOCK_W)
    band = part // across % bands
    batch = (part // (across * bands)).to(tl.int64)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    first = band * each
    last = tl.minimum(first + each, H)
    at = batch * H * W * C + column[:, None].to(tl.int64) * C + c[None, :]
    channel = (c < C)[None, :]
    left = channel & ((column > 0) & (column <= W))[:, None]
    here = channel & (column < W)[:, None]
    right = channel & (column + 1 < W)[:, None]
    return first, last, at, c, left, here, right, part


@triton.jit
def _tap(weight, c, k: tl.constexpr, C, ACC: tl.constexpr, FLIP: tl.constexpr):
    """Tap k of each channel, (1, BLOCK_C)."""
    at = c * 9 + (8 - k if FLIP else k)
    return tl.load(weight + at, mask=c < C, other=0.0).to(ACC)[None, :]


@triton.jit(do_not_specialize=SIZES)
def _forward(
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
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """x, other, y: (B, H, W, C).  FLIP: the adjoint, without bias."""
    first, last, at, c, left, here, right, _ = _place(
        H, W, C, bands, each, BLOCK_W, BLOCK_C
    )
    w0 = _tap(weight, c, 0, C, ACC, FLIP)
    w1 = _tap(weight, c, 1, C, ACC, FLIP)
    w2 = _tap(weight, c, 2, C, ACC, FLIP)
    w3 = _tap(weight, c, 3, C, ACC, FLIP)
    w4 = _tap(weight, c, 4, C, ACC, FLIP)
    w5 = _tap(weight, c, 5, C, ACC, FLIP)
    w6 = _tap(weight, c, 6, C, ACC, FLIP)
    w7 = _tap(weight, c, 7, C, ACC, FLIP)
    w8 = _tap(weight, c, 8, C, ACC, FLIP)
    level = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    if not FLIP:
        level += tl.load(bias + c, mask=c < C, other=0.0).to(ACC)[None, :]
    # of the row above the one that is read, and of that one
    above = level
    current = level
    centre = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    place = at + (first - 2) * W * C
    for row in range(first - 1, last + 1):
        inside = (row >= 0) & (row < H)
        place += W * C
        west = tl.load(x + place - C, mask=left & inside, other=0.0).to(ACC)
        middle = tl.load(x + place, mask=here & inside, other=0.0).to(ACC)
        east = tl.load(x + place + C, mask=right & inside, other=0.0).to(ACC)
        done = above + west * w6 + middle * w7 + east * w8
        if SILU:
            done = done / (1.0 + tl.exp(-done))
        if ADD == 1:
            done += centre
        mask = here & (row > first)
        if ADD == 2:
            done += tl.load(other + place - W * C, mask=mask, other=0.0).to(ACC)
        tl.store(y + place - W * C, done, mask=mask)
        above = current + west * w3 + middle * w4 + east * w5
        current = level + west * w0 + middle * w1 + east * w2
        centre = middle


@triton.jit(do_not_specialize=SIZES)
def _sums(
    grad,
    x,
    weight,
    bias,
    before,
    sums,
    H,
    W,
    C,
    bands,
    each,
    SILU: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """grad, x, before: (B, H, W, C).  sums: (10, programs / blocks, C)."""
    first, last, at, c, left, here, right, part = _place(
        H, W, C, bands, each, BLOCK_W, BLOCK_C
    )
    # each its own tensor: where two names of one are assigned to each other in a loop,
    # the compiler keeps what they had before it
    l0 = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    m0 = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    r0 = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    l1 = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    m1 = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    r1 = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    zero = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = (
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
    )
    if SILU:
        w0 = _tap(weight, c, 0, C, ACC, False)
        w1 = _tap(weight, c, 1, C, ACC, False)
        w2 = _tap(weight, c, 2, C, ACC, False)
        w3 = _tap(weight, c, 3, C, ACC, False)
        w4 = _tap(weight, c, 4, C, ACC, False)
        w5 = _tap(weight, c, 5, C, ACC, False)
        w6 = _tap(weight, c, 6, C, ACC, False)
        w7 = _tap(weight, c, 7, C, ACC, False)
        w8 = _tap(weight, c, 8, C, ACC, False)
        level = tl.load(bias + c, mask=c < C, other=0.0).to(ACC)[None, :]
    place = at + (first - 2) * W * C
    for row in range(first - 1, last + 1):
        inside = (row >= 0) & (row < H)
        place += W * C
        l2 = tl.load(x + place - C, mask=left & inside, other=0.0).to(ACC)
        m2 = tl.load(x + place, mask=here & inside, other=0.0).to(ACC)
        r2 = tl.load(x + place + C, mask=right & inside, other=0.0).to(ACC)
        mask = here & (row > first)
        g = tl.load(grad + place - W * C, mask=mask, other=0.0).to(ACC)
        if SILU:
            y = level + l0 * w0 + m0 * w1 + r0 * w2
            y += l1 * w3 + m1 * w4 + r1 * w5
            y += l2 * w6 + m2 * w7 + r2 * w8
            sigmoid = 1.0 / (1.0 + tl.exp(-y))
            g = g * sigmoid * (1.0 + y * (1.0 - sigmoid))
            tl.store(before + place - W * C, g, mask=mask)
        s0 += g * l0
        s1 += g * m0
        s2 += g * r0
        s3 += g * l1
        s4 += g * m1
        s5 += g * r1
        s6 += g * l2
        s7 += g * m2
        s8 += g * r2
        s9 += g
        l0, m0, r0 = l1, m1, r1
        l1, m1, r1 = l2, m2, r2
    parts = tl.num_programs(0) // tl.cdiv(C, BLOCK_C)
    step = parts.to(tl.int64) * C
    to = sums + part.to(tl.int64) * C + c
    tl.store(to, tl.sum(s0, axis=0), mask=c < C)
    tl.store(to + step, tl.sum(s1, axis=0), mask=c < C)
    tl.store(to + 2 * step, tl.sum(s2, axis=0), mask=c < C)
    tl.store(to + 3 * step, tl.sum(s3, axis=0), mask=c < C)
    tl.store(to + 4 * step, tl.sum(s4, axis=0), mask=c < C)
    tl.store(to + 5 * step, tl.sum(s5, axis=0), mask=c < C)
    tl.store(to + 6 * step, tl.sum(s6, axis=0), mask=c < C)
    tl.store(to + 7 * step, tl.sum(s7, axis=0), mask=c < C)
    tl.store(to + 8 * step, tl.sum(s8, axis=0), mask=c < C)
    tl.store(to + 9 * step, tl.sum(s9, axis=0), mask=c < C)


@_convolved.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, silu: bool, residual: bool) -> Tensor:
    return x.new_empty(x.shape)


@_adjoint.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    silu: bool,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, weight, bias))


def _save(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.silu, ctx.residual = inputs[3:]


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_adjoint(grad, *ctx.saved_tensors, ctx.silu, ctx.residual), None, None


_convolved.register_autograd(_backward, setup_context=_save)
