"""The selective scan of one state per channel and one group, as Triton kernels.

A program is one warp and owns neighbouring channels, a lane for each: it walks along
the positions with the state in a register, without shared memory and without barriers,
and reads STEPS positions ahead.  Where few programs would leave a GPU idle the
positions are cut into segments: a first pass computes what each of them does to a
state, and the walk enters a segment with these maps composed.

The backward pass is the same walk from the end.  Sums over positions, batch and
channels go through a buffer with one row for each program, added up by torch: no
atomics, the same bits every time.

Sizes are passed unspecialised, so that one compilation serves all maps.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.division import covering

CHANNELS = 32  # the lanes of a warp
STEPS = 8  # positions read ahead
STEPS_ADJOINT = 4  # where more is read at each
PROGRAMS = 1024  # 8 warps for each multiprocessor of a large GPU
SHORTEST = 64  # positions of a segment, not to walk over maps instead of positions

SIZES = ['B_l', 'L', 'D', 'segments', 'length']
POINTERS = ['u', 'delta', 'A', 'B', 'bias', 'product', 'end']


class Segments(NamedTuple):
    """blocks: of channels.  count: of segments; length: positions of each."""

    blocks: int
    count: int
    length: int


def segments_of(batch: int, channels: int, total: int) -> Segments:
    """How the work is divided, the same for the same shapes."""
    blocks = covering(channels, CHANNELS)
    wanted = max(1, 2 * PROGRAMS // (batch * blocks))
    if batch * blocks >= PROGRAMS:
        wanted = 1
    length = max(covering(total, wanted), min(SHORTEST, total))
    length = STEPS * covering(length, STEPS)
    return Segments(blocks, covering(total, length), length)


def rows(x: Tensor) -> Tensor:
    """(B, D, L) as contiguous (B, L, D), without a copy if it lies channels last."""
    return x.transpose(1, 2).contiguous()


def column(B: Tensor) -> tuple[Tensor, int]:
    """(B, 1, 1, L) with one stride for a step through all positions of all maps."""
    step = B.stride(3)
    if B.shape[0] > 1 and B.stride(0) != step * B.shape[3]:
        B, step = B.contiguous(), 1
    return B, step


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, bias: Tensor, h: Tensor
) -> None:
    """Fill h, (B, L, 1, D)."""
    batch, length, _, channels = h.shape
    plan = segments_of(batch, channels, length)
    B, step = column(B)
    inputs = (rows(u), rows(delta), A.contiguous(), B, bias.contiguous())
    _walk(_scan, inputs, (h,), step, plan, h)


def adjoint(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    bias: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B and bias, in their shapes."""
    batch, length, _, channels = h.shape
    plan = segments_of(batch, channels, length)
    grad_u, grad_delta = (
        torch.empty(batch, length, channels, dtype=t.dtype, device=t.device)
        for t in (u, delta)
    )
    sums = h.new_empty(2, batch * plan.count, channels)  # for A and the bias
    grad_B = h.new_empty(plan.blocks, batch, length)
    column_of, step = column(B)
    inputs = (rows(u), rows(delta), A.contiguous(), column_of, bias.contiguous())
    given = (grad.contiguous(), h, grad_u, grad_delta, sums[0], grad_B, sums[1])
    _walk(_scan_back, inputs, given, step, plan, h)
    grad_A, grad_bias = sums.sum(1)
    return (
        grad_u.transpose(1, 2),
        grad_delta.transpose(1, 2),
        grad_A[:, None].to(A.dtype),
        grad_B.sum(0)[:, None, None].to(B.dtype),
        grad_bias.to(bias.dtype),
    )


def _walk(
    kernel: Any,
    inputs: tuple[Tensor, ...],
    others: tuple[Tensor, ...],
    step: int,
    plan: Segments,
    h: Tensor,
) -> None:
    """Run `kernel` on all segments, after a run for their maps if there are several."""
    batch, length, _, channels = h.shape
    several = plan.count > 1
    product = end = h  # not read where there is one segment
    if several:
        product, end = h.new_empty(2, batch, plan.count, channels)
    grid = (batch * plan.count * plan.blocks,)
    with torch.cuda.device_of(h):
        for maps_only in (True, False) if several else (False,):
            kernel[grid](
                *inputs,
                *others,
                product,
                end,
                step,
                length,
                channels,
                plan.count,
                plan.length,
                MAPS_ONLY=maps_only,
                STEPS=STEPS_ADJOINT if kernel is _scan_back else STEPS,
                BLOCK_D=CHANNELS,
                ACC=tl.float64 if h.dtype == torch.float64 else tl.float32,
                num_warps=1,
            )


@triton.jit
def _log1p(e, ACC: tl.constexpr):
    """log(1 + e) for 0 <= e <= 1, to rounding relative to e."""
    if tl.float64 == ACC:
        # what 1 + e loses by its rounding is added again
        rounded = 1.0 + e
        return tl.log(rounded) + (e - (rounded - 1.0)) / rounded
    else:
        # log(1 + e) / e interpolated at Chebyshev's points: no division, no log
        p = 0.00203769052 * e - 0.0134448311
        p = p * e + 0.0415576227
        p = p * e - 0.0825353322
        p = p * e + 0.124251029
        p = p * e - 0.161086319
        p = p * e + 0.198915375
        p = p * e - 0.249873928
        p = p * e + 0.333325692
        p = p * e - 0.499999817
        p = p * e + 0.999999999
        return p * e


@triton.jit
def _softplus(x, e, ACC: tl.constexpr):
    """max(x, 0) + log(1 + e) with e = exp(-|x|); x itself above 20."""
    return tl.where(x > 20.0, x, tl.maximum(x, 0.0) + _log1p(e, ACC))


@triton.jit
def _softplus_slope(x, e):
    return tl.where(x > 20.0, 1.0, tl.where(x >= 0.0, 1.0, e) / (1.0 + e))


@triton.jit
def _place(D, segments, BLOCK_D: tl.constexpr):
    """This program's block, segment, batch, channels (BLOCK_D,) and their mask."""
    program = tl.program_id(0)
    blocks = tl.cdiv(D, BLOCK_D)
    block = program % blocks
    segment = program // blocks % segments
    batch = (program // (blocks * segments)).to(tl.int64)
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    return block, segment, batch, d, d < D


@triton.jit
def _compose(product, end, first, last, sign, D, mask, zero, STEPS: tl.constexpr):
    """Maps of segments first, first + sign, … before last, applied to zero.

    product, end: where the maps of segment 0 are, (BLOCK_D,) pointers.
    """
    state = zero
    count = (last - first) * sign
    for start in range(0, count, STEPS):
        decays = ()
        ends = ()
        for k in tl.static_range(STEPS):
            at = (first + sign * (start + k)) * D
            there = tl.where(mask, count - start, 0) > k
            decays = decays + (tl.load(product + at, mask=there, other=1.0),)
            ends = ends + (tl.load(end + at, mask=there, other=0.0),)
        for k in tl.static_range(STEPS):
            state = decays[k] * state + ends[k]
    return state


@triton.jit
def _read(x, row, stop, D, mask, STEPS: tl.constexpr, SIGN: tl.constexpr):
    """STEPS rows from `row` on, upwards or downwards; x: pointers into it."""
    values = ()
    for k in tl.static_range(STEPS):
        # not mask & (…): Triton 3.9's interpreter spreads a truth value as an integer
        there = tl.where(mask, SIGN * (stop - row), 0) > k
        values = values + (tl.load(x + SIGN * k * D, mask=there, other=0.0),)
    return values


@triton.jit
def _read_column(x, row, stop, step, STEPS: tl.constexpr, SIGN: tl.constexpr):
    """The same of a column, one number for each row."""
    values = ()
    for k in tl.static_range(STEPS):
        there = SIGN * (stop - row) > k
        values = values + (tl.load(x + SIGN * k * step, mask=there, other=0.0),)
    return values


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=[*POINTERS, 'h'])
def _scan(
    u,
    delta,
    A,
    B,
    bias,
    h,
    product,
    end,
    B_l,
    L,
    D,
    segments,
    length,
    MAPS_ONLY: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """u, delta, h: (B, L, D).  B: (B, L).  product, end: (B, segments, D)."""
    _, segment, batch, d, mask = _place(D, segments, BLOCK_D)
    rate = tl.load(A + d, mask=mask, other=0.0).to(ACC)
    shift = tl.load(bias + d, mask=mask, other=0.0).to(ACC)
    zero = tl.zeros([BLOCK_D], dtype=ACC)
    maps = batch * segments * D + d
    state = zero
    whole = zero + 1.0
    if not MAPS_ONLY:
        state = _compose(
            product + maps, end + maps, 0, segment, 1, D, mask, zero, STEPS
        )
    first = segment * length
    stop = tl.minimum(first + length, L)
    place = (batch * L + first) * D + d
    u += place
    delta += place
    h += place
    B += (batch * L + first) * B_l
    xs = _read(delta, first, stop, D, mask, STEPS, 1)
    us = _read(u, first, stop, D, mask, STEPS, 1)
    bs = _read_column(B, first, stop, B_l, STEPS, 1)
    for row in range(first, stop, STEPS):
        delta += STEPS * D
        u += STEPS * D
        B += STEPS * B_l
        next_xs = _read(delta, row + STEPS, stop, D, mask, STEPS, 1)
        next_us = _read(u, row + STEPS, stop, D, mask, STEPS, 1)
        next_bs = _read_column(B, row + STEPS, stop, B_l, STEPS, 1)
        for k in tl.static_range(STEPS):
            x = xs[k].to(ACC) + shift
            dt = _softplus(x, tl.exp(-tl.abs(x)), ACC)
            dt = tl.where(row + k < stop, dt, 0.0)
            decay = tl.exp(dt * rate)
            state = decay * state + dt * us[k].to(ACC) * bs[k].to(ACC)
            if MAPS_ONLY:
                whole *= decay
            else:
                tl.store(h + k * D, state, mask=tl.where(mask, stop - row, 0) > k)
        h += STEPS * D
        xs = next_xs
        us = next_us
        bs = next_bs
    if MAPS_ONLY:
        tl.store(product + maps + segment * D, whole, mask=mask)
        tl.store(end + maps + segment * D, state, mask=mask)


@triton.jit(
    do_not_specialize=SIZES,
    do_not_specialize_on_alignment=[
        *POINTERS,
        'grad',
        'h',
        'grad_u',
        'grad_delta',
        'grad_A',
        'grad_B',
        'grad_bias',
    ],
)
def _scan_back(
    u,
    delta,
    A,
    B,
    bias,
    grad,
    h,
    grad_u,
    grad_delta,
    grad_A,
    grad_B,
    grad_bias,
    product,
    end,
    B_l,
    L,
    D,
    segments,
    length,
    MAPS_ONLY: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """adjoint_t = grad_t + carry,  carry = decay_{t+1} adjoint_{t+1}, from the end.

    grad, h, grad_u, grad_delta: (B, L, D).  grad_A, grad_bias: (B * segments, D).
    grad_B: (blocks, B, L).
    """
    block, segment, batch, d, mask = _place(D, segments, BLOCK_D)
    rate = tl.load(A + d, mask=mask, other=0.0).to(ACC)
    shift = tl.load(bias + d, mask=mask, other=0.0).to(ACC)
    zero = tl.zeros([BLOCK_D], dtype=ACC)
    maps = batch * segments * D + d
    carry = zero
    whole = zero + 1.0
    sum_A = zero
    sum_bias = zero
    if not MAPS_ONLY:
        carry = _compose(
            product + maps, end + maps, segments - 1, segment, -1, D, mask, zero, STEPS
        )
    stop = segment * length - 1  # rows are visited down to the one after it
    first = tl.minimum(stop + length, L - 1)
    place = (batch * L + first) * D + d
    u += place
    delta += place
    grad += place
    h += place
    grad_u += place
    grad_delta += place
    B += (batch * L + first) * B_l
    batches = tl.num_programs(0) // (tl.cdiv(D, BLOCK_D) * segments)
    grad_B += (block * batches + batch) * L + first
    xs = _read(delta, first, stop, D, mask, STEPS, -1)
    gs = _read(grad, first, stop, D, mask, STEPS, -1)
    if not MAPS_ONLY:
        us = _read(u, first, stop, D, mask, STEPS, -1)
        hs = _read(h - D, first, tl.maximum(stop, 0), D, mask, STEPS, -1)
        bs = _read_column(B, first, stop, B_l, STEPS, -1)
    for back in range(0, first - stop, STEPS):
        row = first - back
        following = row - STEPS
        delta -= STEPS * D
        grad -= STEPS * D
        next_xs = _read(delta, following, stop, D, mask, STEPS, -1)
        next_gs = _read(grad, following, stop, D, mask, STEPS, -1)
        if not MAPS_ONLY:
            u -= STEPS * D
            h -= STEPS * D
            B -= STEPS * B_l
            next_us = _read(u, following, stop, D, mask, STEPS, -1)
            # position 0 has no state before it
            floor = tl.maximum(stop, 0)
            next_hs = _read(h - D, following, floor, D, mask, STEPS, -1)
            next_bs = _read_column(B, following, stop, B_l, STEPS, -1)
        for k in tl.static_range(STEPS):
            x = xs[k].to(ACC) + shift
            e = tl.exp(-tl.abs(x))
            here = row - k > stop
            dt = tl.where(here, _softplus(x, e, ACC), 0.0)
            decay = tl.exp(dt * rate)
            adjoint_k = gs[k].to(ACC) + carry
            carry = decay * adjoint_k
            if MAPS_ONLY:
                whole *= decay
            else:
                # h_t = exp(dt A) h_{t-1} + dt u B: the part through dt u B
                value = us[k].to(ACC)
                inflow = adjoint_k * bs[k].to(ACC)
                weighted = tl.where(mask, adjoint_k * dt * value, 0.0)
                tl.store(grad_B - k, tl.sum(weighted, axis=0), mask=here)
                # and the part through the exponent dt A
                exponent = carry * hs[k].to(ACC)
                sum_A += exponent * dt
                slope = (exponent * rate + value * inflow) * _softplus_slope(x, e)
                sum_bias += tl.where(here, slope, 0.0)
                seen = tl.where(mask, row - stop, 0) > k
                tl.store(grad_u - k * D, dt * inflow, mask=seen)
                tl.store(grad_delta - k * D, slope, mask=seen)
        xs = next_xs
        gs = next_gs
        if not MAPS_ONLY:
            us = next_us
            hs = next_hs
            bs = next_bs
            grad_u -= STEPS * D
            grad_delta -= STEPS * D
            grad_B -= STEPS
    if MAPS_ONLY:
        tl.store(product + maps + segment * D, whole, mask=mask)
        tl.store(end + maps + segment * D, carry, mask=mask)
    else:
        tl.store(grad_A + maps + segment * D, sum_A, mask=mask)
        tl.store(grad_bias + maps + segment * D, sum_bias, mask=mask)
