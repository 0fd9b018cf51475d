"""The selective scan in one or two passes over the inputs, as Triton kernels.

A program owns neighbouring channels of one group and a segment of the positions.  It
walks along the segment in tiles (positions, states, channels), scans each by the
composition of affine maps and carries the last state on; channels are contiguous in
memory for channels-last inputs, and so are the loads.  Where few programs would be left
idle the positions are cut into segments: a first pass computes what each segment does
to a state, and a second one composes these maps for all earlier segments and scans.

The backward pass is the same walk from the end.  Only the inputs and the states are
saved; steps and decays are computed anew.  Sums over positions, batch and channels go
through a buffer with one row for each program, added up by torch: no atomics, the same
bits every time.  The gradient can be taken once: the adjoint has none of its own.

One state per channel and one group, as in Spatial-Mamba, have kernels of their own:
`mmssm.ops.scan.triton_single`.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.division import covering, power_of_2
from mmssm.ops.lowered import lowered
from mmssm.ops.operator import differentiable
from mmssm.ops.precision import precision
from mmssm.ops.scan import triton_single as single

TILE = 2048  # numbers of a tile: 16 for each thread of 4 warps
TILE_ADJOINT = 1024  # where more of them are alive at a time
CHANNELS = 32  # 128 bytes of float32, one transaction of a warp
PROGRAMS = 1024  # several for each multiprocessor of a large GPU
MAPS = 4096  # numbers of the maps of all segments, which are read as one tile


def selective_scan_triton(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor | None = None,
) -> Tensor:
    """Same shapes as the naive twin; the states are laid out channels last.

    Inputs of any floating-point dtype and strides are read as they are; sums are in
    float64 if any of them is and in float32 otherwise.
    """
    if delta_weight is None:
        states = _scanned(u, delta, A, B, delta_bias)
    else:
        states = _scanned_low_rank(u, delta, A, B, delta_bias, delta_weight)
    return states.permute(0, 3, 2, 1)


class Tiles(NamedTuple):
    """How the work is divided.

    positions, states, channels: the shape of a tile, powers of two.
    blocks: of channels in a group.  segments: of positions; length: of each.
    """

    positions: int
    states: int
    channels: int
    blocks: int
    segments: int
    length: int


def tiles(u: Tensor, B: Tensor, most: int) -> Tiles:
    """Tiles of at most about `most` numbers, the same for the same shapes."""
    batch, channels, total = u.shape
    groups, count = B.shape[1:3]
    states = power_of_2(count)
    widest = min(CHANNELS, max(1, most // (16 * states)))  # 16 positions or more
    width = min(widest, power_of_2(channels // groups))
    fit = max(2, most // (states * width))
    positions = min(fit, max(2, power_of_2(total)))
    blocks = covering(channels // groups, width)
    segments = min(
        covering(total, positions),
        max(1, PROGRAMS // (batch * groups * blocks)),
        max(1, MAPS // (states * width)),
    )
    length = positions * covering(covering(total, segments), positions)
    return Tiles(positions, states, width, blocks, covering(total, length), length)


def _states(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor
) -> Tensor:
    """The states, (B, L, N, D)."""
    h = _empty_states(u, delta, A, B, delta_bias)
    if B.shape[1:3] == (1, 1):
        single.scan(u, delta, A, B, delta_bias, h)
        return h
    plan = tiles(u, B, TILE)
    A, delta_bias = A.contiguous(), delta_bias.contiguous()
    inputs = (u, delta, A, B, delta_bias)
    strides = (*u.stride(), *delta.stride(), *B.stride())
    _walk(_scan, inputs, (h,), strides, plan, h)
    return h


def _adjoint(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B and delta_bias, in their shapes."""
    if B.shape[1:3] == (1, 1):
        return single.adjoint(grad, u, delta, A, B, delta_bias, h)
    batch, length, count, channels = h.shape
    plan = tiles(u, B, TILE_ADJOINT)
    rows = batch * plan.segments
    grad_u, grad_delta = (
        torch.empty(batch, length, channels, dtype=t.dtype, device=t.device)
        for t in (u, delta)
    )
    grad_A = h.new_empty(rows, count, channels)
    grad_B = h.new_empty(plan.blocks, batch, length, B.shape[1], count)
    grad_bias = h.new_empty(rows, channels)
    inputs = (grad, u, delta, A.contiguous(), B, delta_bias.contiguous(), h)
    outputs = (grad_u, grad_delta, grad_A, grad_B, grad_bias)
    strides = (*grad.stride(), *u.stride(), *delta.stride(), *B.stride())
    _walk(_scan_back, inputs, outputs, strides, plan, h)
    return (
        grad_u.transpose(1, 2),
        grad_delta.transpose(1, 2),
        grad_A.sum(0).mT.to(A.dtype).contiguous(),
        grad_B.sum(0).to(B.dtype).permute(0, 2, 3, 1),
        grad_bias.sum(0).to(delta_bias.dtype),
    )


def _walk(
    kernel: Any,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    strides: tuple[int, ...],
    plan: Tiles,
    h: Tensor,
) -> None:
    """Run `kernel` on all segments, after a run for their maps if there are several.

    h: (B, L, N, D), for its shape and dtype.
    """
    batch, length, count, channels = h.shape
    groups = inputs[-3 if kernel is _scan_back else -2].shape[1]
    product = end = None
    if plan.segments > 1:
        product, end = (
            h.new_empty(batch, plan.segments, count, channels) for _ in range(2)
        )
    sizes = (length, channels, count, groups, channels // groups)
    grid = (batch * plan.segments * groups * plan.blocks,)
    passes = (True, False) if plan.segments > 1 else (False,)
    with torch.cuda.device_of(h):
        for maps_only in passes:
            kernel[grid](
                *inputs,
                *outputs,
                product,
                end,
                *strides,
                *sizes,
                plan.blocks,
                plan.segments,
                plan.length,
                MAPS_ONLY=maps_only,
                BLOCK_S=power_of_2(plan.segments),
                BLOCK_L=plan.positions,
                BLOCK_N=plan.states,
                BLOCK_D=plan.channels,
                ACC=tl.float64 if h.dtype == torch.float64 else tl.float32,
            )


@triton.jit
def _compose(decay, state, next_decay, next_state):
    """First one affine map of the state, then the next."""
    return next_decay * decay, next_decay * state + next_state


@triton.jit
def _softplus(x):
    """max(x, 0) + log(1 + e) with e = exp(-|x|); x itself above 20.

    What 1 + e loses by its rounding, all of it for a small e, is added again.
    """
    e = tl.exp(-tl.abs(x))
    rounded = 1.0 + e
    log = tl.log(rounded) + (e - (rounded - 1.0)) / rounded
    return tl.where(x > 20.0, x, tl.maximum(x, 0.0) + log)


@triton.jit
def _softplus_slope(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x > 20.0, 1.0, tl.where(x >= 0.0, 1.0, e) / (1.0 + e))


@triton.jit
def _place(groups, group_size, blocks, segments, BLOCK_D: tl.constexpr):
    """This program's batch, segment, group, block, channels (BLOCK_D,), their mask."""
    program = tl.program_id(0)
    block = program % blocks
    group = program // blocks % groups
    segment = program // (blocks * groups) % segments
    batch = program // (blocks * groups * segments)
    inside = block * BLOCK_D + tl.arange(0, BLOCK_D)
    d = (group * group_size + inside).to(tl.int64)
    return (
        batch.to(tl.int64),
        segment,
        group.to(tl.int64),
        block.to(tl.int64),
        d,
        inside < group_size,
    )


@triton.jit
def _last(x, BLOCK: tl.constexpr):
    """(BLOCK, N, D) -> (N, D)."""
    is_last = tl.arange(0, BLOCK) == BLOCK - 1
    return tl.sum(tl.where(is_last[:, None, None], x, 0.0), axis=0)


@triton.jit
def _enter(
    product,
    end,
    at,
    mask,
    stride,
    segment,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """The state that enters a segment, (N, D): all earlier maps applied to zero.

    at, mask: (N, D), where the map of segment 0 is; stride: from one to the next.
    """
    if BLOCK_S == 1:
        return tl.zeros([BLOCK_N, BLOCK_D], dtype=ACC)
    else:
        s = tl.arange(0, BLOCK_S)
        places = at[None, :, :] + s[:, None, None].to(tl.int64) * stride
        earlier = (s < segment)[:, None, None] & mask[None, :, :]
        decay = tl.load(product + places, mask=earlier, other=1.0)
        state = tl.load(end + places, mask=earlier, other=0.0)
        _, states = tl.associative_scan((decay, state), 0, _compose)
        return _last(states, BLOCK_S)


@triton.jit
def _scan(
    u,
    delta,
    A,
    B,
    bias,
    h,
    product,
    end,
    u_b,
    u_d,
    u_l,
    delta_b,
    delta_d,
    delta_l,
    B_b,
    B_g,
    B_n,
    B_l,
    L,
    D,
    N,
    groups,
    group_size,
    blocks,
    segments,
    length,
    MAPS_ONLY: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """h: (B, L, N, D).  product, end: (B, segments, N, D), written if MAPS_ONLY."""
    batch, segment, group, _, d, channel = _place(
        groups, group_size, blocks, segments, BLOCK_D
    )
    n = tl.arange(0, BLOCK_N).to(tl.int64)
    state = n < N
    here = state[:, None] & channel[None, :]
    nd = n[:, None] * D + d[None, :]
    rate = tl.load(A + d[None, :] * N + n[:, None], mask=here, other=0.0).to(ACC)
    shift = tl.load(bias + d, mask=channel, other=0.0).to(ACC)
    u += batch * u_b
    delta += batch * delta_b
    B += batch * B_b + group * B_g

    maps = batch * segments * N * D + nd
    if MAPS_ONLY:
        carry = tl.zeros([BLOCK_N, BLOCK_D], dtype=ACC)
    else:
        carry = _enter(
            product, end, maps, here, N * D, segment, BLOCK_S, BLOCK_N, BLOCK_D, ACC
        )
    whole = tl.full([BLOCK_N, BLOCK_D], 1.0, dtype=ACC)
    first = segment * length
    for start in range(first, tl.minimum(first + length, L), BLOCK_L):
        row = (start + tl.arange(0, BLOCK_L)).to(tl.int64)
        seen = row < L
        ld = seen[:, None] & channel[None, :]
        at = row[:, None] * delta_l + d[None, :] * delta_d
        dt = _softplus(tl.load(delta + at, mask=ld, other=0.0).to(ACC) + shift[None, :])
        at = row[:, None] * u_l + d[None, :] * u_d
        driven = dt * tl.load(u + at, mask=ld, other=0.0).to(ACC)
        at = row[:, None] * B_l + n[None, :] * B_n
        weight = tl.load(B + at, mask=seen[:, None] & state[None, :], other=0.0)
        decay = tl.exp(dt[:, None, :] * rate[None, :, :])
        inflow = driven[:, None, :] * weight.to(ACC)[:, :, None]
        decays, states = tl.associative_scan((decay, inflow), 0, _compose)
        states += decays * carry[None, :, :]
        carry = _last(states, BLOCK_L)
        if MAPS_ONLY:
            whole *= _last(decays, BLOCK_L)
        else:
            at = ((batch * L + row) * N * D)[:, None, None] + nd[None, :, :]
            tl.store(h + at, states, mask=seen[:, None, None] & here[None, :, :])
    if MAPS_ONLY:
        at = maps + segment.to(tl.int64) * N * D
        tl.store(product + at, whole, mask=here)
        tl.store(end + at, carry, mask=here)


@triton.jit
def _scan_back(
    grad,
    u,
    delta,
    A,
    B,
    bias,
    h,
    grad_u,
    grad_delta,
    grad_A,
    grad_B,
    grad_bias,
    product,
    end,
    grad_b,
    grad_l,
    grad_n,
    grad_d,
    u_b,
    u_d,
    u_l,
    delta_b,
    delta_d,
    delta_l,
    B_b,
    B_g,
    B_n,
    B_l,
    L,
    D,
    N,
    groups,
    group_size,
    blocks,
    segments,
    length,
    MAPS_ONLY: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """adjoint_t = grad_t + decay_{t+1} adjoint_{t+1}, and what follows from it.

    Segments, tiles and rows in them are counted from the last position.
    grad, h: (B, L, N, D).  grad_u, grad_delta: (B, L, D).  grad_A: (B * segments, N,
    D).  grad_B: (blocks, B, L, G, N).  grad_bias: (B * segments, D).
    """
    batch, segment, group, block, d, channel = _place(
        groups, group_size, blocks, segments, BLOCK_D
    )
    n = tl.arange(0, BLOCK_N).to(tl.int64)
    state = n < N
    here = state[:, None] & channel[None, :]
    nd = n[:, None] * D + d[None, :]
    rate = tl.load(A + d[None, :] * N + n[:, None], mask=here, other=0.0).to(ACC)
    shift = tl.load(bias + d, mask=channel, other=0.0).to(ACC)
    grad += batch * grad_b
    u += batch * u_b
    delta += batch * delta_b
    B += batch * B_b + group * B_g

    maps = batch * segments * N * D + nd
    if MAPS_ONLY:
        carry = tl.zeros([BLOCK_N, BLOCK_D], dtype=ACC)
    else:
        carry = _enter(
            product, end, maps, here, N * D, segment, BLOCK_S, BLOCK_N, BLOCK_D, ACC
        )
    whole = tl.full([BLOCK_N, BLOCK_D], 1.0, dtype=ACC)
    sum_A = tl.zeros([BLOCK_N, BLOCK_D], dtype=ACC)
    sum_bias = tl.zeros([BLOCK_D], dtype=ACC)
    first = segment * length
    for start in range(first, tl.minimum(first + length, L), BLOCK_L):
        row = (L - 1 - start - tl.arange(0, BLOCK_L)).to(tl.int64)
        seen = row >= 0
        ld = seen[:, None] & channel[None, :]
        lnd = seen[:, None, None] & here[None, :, :]
        at = row[:, None] * delta_l + d[None, :] * delta_d
        following = ld & (row + 1 < L)[:, None]
        x = tl.load(delta + at + delta_l, mask=following, other=0.0).to(ACC)
        dt = _softplus(x + shift[None, :])
        decay = tl.exp(dt[:, None, :] * rate[None, :, :])
        places = row[:, None, None] * grad_l + n[None, :, None] * grad_n
        g = tl.load(grad + places + d[None, None, :] * grad_d, mask=lnd, other=0.0)
        decays, adjoint = tl.associative_scan((decay, g.to(ACC)), 0, _compose)
        adjoint += decays * carry[None, :, :]
        carry = _last(adjoint, BLOCK_L)
        if MAPS_ONLY:
            whole *= _last(decays, BLOCK_L)
        else:
            x = tl.load(delta + at, mask=ld, other=0.0).to(ACC) + shift[None, :]
            dt = _softplus(x)
            at = row[:, None] * u_l + d[None, :] * u_d
            value = tl.load(u + at, mask=ld, other=0.0).to(ACC)
            at = row[:, None] * B_l + n[None, :] * B_n
            ln = seen[:, None] & state[None, :]
            weight = tl.load(B + at, mask=ln, other=0.0).to(ACC)

            # h_t = exp(dt A) h_{t-1} + dt u B: first the part through dt u B
            inflow = tl.sum(adjoint * weight[:, :, None], axis=1)  # (L, D)
            sums = tl.sum(adjoint * (dt * value)[:, None, :], axis=2)  # (L, N)
            # then the part through the exponent dt A, which position 0 does not have
            at = ((batch * L + row - 1) * N * D)[:, None, None] + nd[None, :, :]
            before = tl.load(h + at, mask=lnd & (row > 0)[:, None, None], other=0.0)
            decay = tl.exp(dt[:, None, :] * rate[None, :, :])
            exponent = decay * adjoint * before
            sum_A += tl.sum(exponent * dt[:, None, :], axis=0)
            grad_dt = tl.sum(exponent * rate[None, :, :], axis=1) + value * inflow
            slope = grad_dt * _softplus_slope(x)
            sum_bias += tl.sum(tl.where(ld, slope, 0.0), axis=0)

            at = ((batch * L + row) * D)[:, None] + d[None, :]
            tl.store(grad_u + at, dt * inflow, mask=ld)
            tl.store(grad_delta + at, slope, mask=ld)
            batches = tl.num_programs(0) // (blocks * groups * segments)
            at = ((block * batches + batch) * L + row) * groups + group
            tl.store(grad_B + at[:, None] * N + n[None, :], sums, mask=ln)
    if MAPS_ONLY:
        at = maps + segment.to(tl.int64) * N * D
        tl.store(product + at, whole, mask=here)
        tl.store(end + at, carry, mask=here)
    else:
        at = batch * segments + segment
        tl.store(grad_A + at * N * D + nd, sum_A, mask=here)
        tl.store(grad_bias + at * D + d, sum_bias, mask=channel)


def _empty_states(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor, *rest: Tensor
) -> Tensor:
    """(B, L, N, D), in the precision of the result."""
    batch, channels, length = u.shape
    return torch.empty(
        (batch, length, A.shape[1], channels),
        dtype=precision(u, delta, A, B, delta_bias),
        device=u.device,
    )


def _adjoint_like(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, channels, length = u.shape
    groups, count = B.shape[1:3]
    return (
        u.new_empty(batch, length, channels).transpose(1, 2),
        delta.new_empty(batch, length, channels).transpose(1, 2),
        A.new_empty(A.shape),
        B.new_empty(batch, length, groups, count).permute(0, 2, 3, 1),
        delta_bias.new_empty(channels),
    )


_scanned = differentiable(
    'mmssm::selective_scan_triton',
    _states,
    _adjoint,
    _empty_states,
    _adjoint_like,
    keeps_result=True,
)


def _low_rank_states(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor,
) -> Tensor:
    """delta: (B, R, L); delta_weight: (D, R)."""
    return _states(u, _wide_delta(delta, delta_weight), A, B, delta_bias)


def _low_rank_adjoint(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor,
    h: Tensor,
) -> list[Tensor]:
    wide = _wide_delta(delta, delta_weight)
    grad_u, grad_wide, *others = _adjoint(grad, u, wide, A, B, delta_bias, h)
    rows = grad_wide.transpose(1, 2)  # (B, L, D)
    grad_delta = (rows @ delta_weight.to(rows.dtype)).transpose(1, 2)
    factor = delta.transpose(1, 2).flatten(0, 1).to(rows.dtype)
    grad_weight = rows.flatten(0, 1).mT @ factor
    return [grad_u, grad_delta, *others, grad_weight.to(delta_weight.dtype)]


def _wide_delta(delta: Tensor, delta_weight: Tensor) -> Tensor:
    """(B, R, L) -> (B, D, L) in delta's dtype, channels last."""
    rows = F.linear(delta.transpose(1, 2), lowered(delta_weight, delta.dtype))
    return rows.transpose(1, 2)


def _low_rank_adjoint_like(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor,
    h: Tensor,
) -> list[Tensor]:
    grad_u, _, *others = _adjoint_like(grad, u, u, A, B, delta_bias, h)
    batch, rank, length = delta.shape
    grad_delta = delta.new_empty(batch, length, rank).transpose(1, 2)
    grad_weight = delta_weight.new_empty(delta_weight.shape)
    return [grad_u, grad_delta, *others, grad_weight]


_scanned_low_rank = differentiable(
    'mmssm::selective_scan_low_rank_triton',
    _low_rank_states,
    _low_rank_adjoint,
    _empty_states,
    _low_rank_adjoint_like,
    keeps_result=True,
)
