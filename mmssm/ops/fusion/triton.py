"""State fusion as Triton kernels that read the map once, whatever the dilations.

A program owns a patch of cells and some neighbouring channels, a tile (cells,
channels).  It reads the cells at all distinct taps, which are mostly in the cache, and
takes the nearest cell of the map for those outside.

The adjoint gathers, so that no two programs add to one place: a cell collects from all
that read it.  These are one cell for each tap, and for a cell on the border also those
whose tap lies beyond it, a run of up to d further cells along either axis for a
dilation d.  Sums over cells go through a buffer with a row for each program, added up
by torch: the same bits every time.  The gradient can be taken once.

`cells`, `channels`, `stencil`, `gather` and `tap_sums` also serve the observation.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.precision import precision

PATCH = (8, 16)  # cells; with a reach of 5 a program reads 18 x 26 of them
TILE = 1024  # numbers of a tile: 4 for each thread of 8 warps; with more, they spill
PROGRAMS = 1024  # several for each multiprocessor of a large GPU


def state_fusion_triton(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> Tensor:
    """Same shapes as the naive twin; the memory format is that of h.

    Inputs of any floating-point dtype and strides are read as they are; sums are in
    float64 if any of them is and in float32 otherwise.
    """
    return _fused(h, kernels, alpha, dilations)


class Patches(NamedTuple):
    """How a map is divided; the sizes of a tile are powers of two.

    across: patches in a row of them.  count: patches of a map.  blocks: of channels.
    """

    height: int
    width: int
    channels: int
    across: int
    count: int
    blocks: int


def patches(h: Tensor) -> Patches:
    """The same for the same shape."""
    _, channels, rows, columns = h.shape
    width = min(PATCH[1], triton.next_power_of_2(columns))
    height = min(PATCH[0], triton.next_power_of_2(rows))
    block = min(triton.next_power_of_2(channels), max(1, TILE // (height * width)), 64)
    across = triton.cdiv(columns, width)
    count = across * triton.cdiv(rows, height)
    return Patches(height, width, block, across, count, triton.cdiv(channels, block))


def constants(h: Tensor, dilations: tuple[int, ...], dtype: torch.dtype) -> dict:
    """What the kernels are compiled for.

    num_warps: fewer would want more registers than there are for 25 loads in flight.
    """
    plan = patches(h)
    furthest = max(h.shape[2:])  # all taps from here on read the border
    packed = sum(min(d, furthest) << 16 * k for k, d in enumerate(dilations))
    return dict(
        DILATIONS=packed,
        COUNT=len(dilations),
        BLOCK_H=plan.height,
        BLOCK_W=plan.width,
        BLOCK_C=plan.channels,
        ACC=tl.float64 if dtype == torch.float64 else tl.float32,
        num_warps=8,
    )


def taps(kernels: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (9 K, C), those of all centres in the first one's place, row 4."""
    scaled = kernels.to(dtype) * alpha.to(dtype)[:, None, None, None, None]
    weights = scaled.flatten(2).mT.flatten(0, 1).contiguous()
    weights[4] = weights[4::9].sum(0)
    return weights


def taps_adjoint(sums: Tensor, kernels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of kernels and alpha from those of the weights, (rows, 9 K, C).

    In double: that of alpha is a sum in which much cancels.
    """
    grad = sums.sum(0, dtype=torch.float64)
    grad[4::9] = grad[4].clone()
    grad = grad.unflatten(0, (-1, 9)).mT.unflatten(2, (1, 3, 3))
    grad_alpha = (grad * kernels).flatten(1).sum(1)
    grad_kernels = grad * alpha[:, None, None, None, None]
    return (
        grad_kernels.to(kernels.dtype).contiguous(),
        grad_alpha.to(alpha.dtype),
    )


def runs(h: Tensor) -> tuple[int, int]:
    """How many programs sum over cells, for each block, and over how many patches."""
    plan = patches(h)
    total = len(h) * plan.count
    each = triton.cdiv(total * plan.blocks, PROGRAMS)
    return triton.cdiv(total, each), each


@custom_op('mmssm::state_fusion_triton', mutates_args=())
def _fused(h: Tensor, kernels: Tensor, alpha: Tensor, dilations: list[int]) -> Tensor:
    y = _empty_fused(h, kernels, alpha, dilations)
    plan = patches(h)
    with torch.cuda.device_of(h):
        _fuse[(len(h) * plan.count * plan.blocks,)](
            h,
            taps(kernels, alpha, y.dtype),
            y,
            *h.stride(),
            *y.stride(),
            *h.shape[1:],
            *plan[3:],
            **constants(h, dilations, y.dtype),
        )
    return y


@custom_op('mmssm::state_fusion_triton_adjoint', mutates_args=())
def _adjoint(
    grad: Tensor, h: Tensor, kernels: Tensor, alpha: Tensor, dilations: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, plan = precision(h, kernels, alpha), patches(h)
    shape, fixed = (*h.shape[1:], *plan[3:]), constants(h, dilations, dtype)
    weights = taps(kernels, alpha, dtype)
    grad_h = torch.empty_like(h)
    rows, each = runs(h)
    sums = weights.new_empty(rows, *weights.shape)
    with torch.cuda.device_of(h):
        _fuse_back[(len(h) * plan.count * plan.blocks,)](
            grad,
            weights,
            grad_h,
            *grad.stride(),
            *grad_h.stride(),
            *shape,
            **fixed,
            num_stages=1,
        )
        _sum_taps[(rows * plan.blocks,)](
            grad,
            h,
            sums,
            *grad.stride(),
            *h.stride(),
            *shape,
            len(h),
            each,
            **fixed,
            BLOCK_T=triton.next_power_of_2(len(weights)),
        )
    return grad_h, *taps_adjoint(sums, kernels, alpha)


@triton.jit
def cells(
    place,
    H,
    W,
    across,
    count,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Batch, first row, first column, and of each cell row, column and whether it is.

    place: of the patch among those of all maps.
    """
    patch = place % count
    top = patch // across * BLOCK_H
    left = patch % across * BLOCK_W
    p = tl.arange(0, BLOCK_H * BLOCK_W)
    i = top + p // BLOCK_W
    j = left + p % BLOCK_W
    return (place // count).to(tl.int64), top, left, i, j, (i < H) & (j < W)


@triton.jit
def channels(block, C, BLOCK_C: tl.constexpr):
    """Indices of a block's channels, and whether they are."""
    c = (block * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    return c, c < C


@triton.jit
def offsets(i, j, c, i_stride, j_stride, c_stride):
    """(cells, channels), in 64 bits."""
    cell = i.to(tl.int64) * i_stride + j.to(tl.int64) * j_stride
    return cell[:, None] + (c * c_stride)[None, :]


@triton.jit
def _row(i, side, TAP: tl.constexpr, DILATIONS: tl.constexpr):
    """Nearest row of the map to the tap's."""
    i += (TAP % 9 // 3 - 1) * ((DILATIONS >> (16 * (TAP // 9))) & 65535)
    return tl.minimum(tl.maximum(i, 0), side - 1)


@triton.jit
def _column(j, side, TAP: tl.constexpr, DILATIONS: tl.constexpr):
    """Nearest column of the map to the tap's."""
    j += (TAP % 3 - 1) * ((DILATIONS >> (16 * (TAP // 9))) & 65535)
    return tl.minimum(tl.maximum(j, 0), side - 1)


@triton.jit
def stencil(
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
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    ACC: tl.constexpr,
):
    """The fused states, (cells, channels).  h: a map.  weights: (9 K, C)."""
    here = seen[:, None] & channel[None, :]
    weight = tl.load(weights + 4 * C + c, mask=channel, other=0.0)
    at = offsets(i, j, c, h_i, h_j, h_c)
    fused = weight[None, :] * tl.load(h + at, mask=here, other=0.0).to(ACC)
    for k in tl.static_range(COUNT):
        part = tl.zeros_like(fused)  # sums of few terms are more exact
        for tap in tl.static_range(9 * k, 9 * k + 9):
            if tap % 9 != 4:
                weight = tl.load(weights + tap * C + c, mask=channel, other=0.0)
                row, column = _row(i, H, tap, DILATIONS), _column(j, W, tap, DILATIONS)
                at = offsets(row, column, c, h_i, h_j, h_c)
                near = tl.load(h + at, mask=here, other=0.0).to(ACC)
                part += weight[None, :] * near
        fused += part
    return fused


@triton.jit
def read(
    g,
    scale,
    i,
    j,
    c,
    here,
    channel,
    g_c,
    g_i,
    g_j,
    scale_i,
    scale_j,
    ACC: tl.constexpr,
):
    """g, times the scale of the cell unless that is None; zero where not `here`."""
    at = offsets(i, j, c, g_i, g_j, g_c)
    value = tl.load(g + at, mask=here[:, None] & channel[None, :], other=0.0).to(ACC)
    if scale is not None:
        at = i.to(tl.int64) * scale_i + j.to(tl.int64) * scale_j
        value *= tl.load(scale + at, mask=here, other=0.0).to(ACC)[:, None]
    return value


@triton.jit
def gather(
    g,
    scale,
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
    g_c,
    g_i,
    g_j,
    scale_i,
    scale_j,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    ACC: tl.constexpr,
):
    """The adjoint of `stencil` in h, (cells, channels), applied to g * scale."""
    weight = tl.load(weights + 4 * C + c, mask=channel, other=0.0)
    sums = weight[None, :] * read(
        g, scale, i, j, c, seen, channel, g_c, g_i, g_j, scale_i, scale_j, ACC
    )
    for k in tl.static_range(COUNT):
        d = (DILATIONS >> (16 * k)) & 65535
        part = tl.zeros_like(sums)
        for tap in tl.static_range(9 * k, 9 * k + 9):
            if tap % 9 != 4:
                row = i - (tap % 9 // 3 - 1) * d
                column = j - (tap % 3 - 1) * d
                here = seen & (row >= 0) & (row < H) & (column >= 0) & (column < W)
                weight = tl.load(weights + tap * C + c, mask=channel, other=0.0)
                part += weight[None, :] * read(
                    g,
                    scale,
                    row,
                    column,
                    c,
                    here,
                    channel,
                    g_c,
                    g_i,
                    g_j,
                    scale_i,
                    scale_j,
                    ACC,
                )
        sums += part

    # Row 0 also gets what the rows 0 to d - 1 read beyond it, and so for each border:
    # a and b count the cells nearer to the border than the tap's own.
    for k in tl.static_range(COUNT):
        d = (DILATIONS >> (16 * k)) & 65535
        for tap in range(9):
            down = tap // 3 - 1
            right = tap % 3 - 1
            ends_i = ((down < 0) & (top == 0)) | ((down > 0) & (top + BLOCK_H >= H))
            ends_j = ((right < 0) & (left == 0)) | ((right > 0) & (left + BLOCK_W >= W))
            more_i = 1 + d * ends_i.to(tl.int32)
            more_j = 1 + d * ends_j.to(tl.int32)
            weight = tl.load(weights + (9 * k + tap) * C + c, mask=channel, other=0.0)
            for extra in range(1, more_i * more_j):
                a = extra // more_j
                b = extra % more_j
                row = i - down * (d - a)
                column = j - right * (d - b)
                here = seen & (row >= 0) & (row < H) & (column >= 0) & (column < W)
                # further cells are for those on the border only
                here &= i == tl.where(a > 0, tl.where(down < 0, 0, H - 1), i)
                here &= j == tl.where(b > 0, tl.where(right < 0, 0, W - 1), j)
                sums += weight[None, :] * read(
                    g,
                    scale,
                    row,
                    column,
                    c,
                    here,
                    channel,
                    g_c,
                    g_i,
                    g_j,
                    scale_i,
                    scale_j,
                    ACC,
                )
    return sums


@triton.jit
def tap_sums(
    g,
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
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sums over the cells of g times h at each tap, (BLOCK_T, channels); the stencil.

    g: (cells, channels).  Of the centres only row 4 is set.  The fused states come
    second, (cells, channels), unless weights is None.
    """
    here = seen[:, None] & channel[None, :]
    t = tl.arange(0, BLOCK_T)
    at = offsets(i, j, c, h_i, h_j, h_c)
    near = tl.load(h + at, mask=here, other=0.0).to(ACC)
    sums = tl.where((t == 4)[:, None], tl.sum(g * near, axis=0)[None, :], 0.0)
    fused = near
    if weights is not None:
        weight = tl.load(weights + 4 * C + c, mask=channel, other=0.0)
        fused = weight[None, :] * near
    for k in tl.static_range(COUNT):
        part = tl.zeros_like(fused)
        for tap in tl.static_range(9 * k, 9 * k + 9):
            if tap % 9 != 4:
                row, column = _row(i, H, tap, DILATIONS), _column(j, W, tap, DILATIONS)
                at = offsets(row, column, c, h_i, h_j, h_c)
                near = tl.load(h + at, mask=here, other=0.0).to(ACC)
                total = tl.sum(g * near, axis=0)
                sums += tl.where((t == tap)[:, None], total[None, :], 0.0)
                if weights is not None:
                    weight = tl.load(weights + tap * C + c, mask=channel, other=0.0)
                    part += weight[None, :] * near
        fused += part
    return sums, fused


@triton.jit
def _fuse(
    h,
    weights,
    y,
    h_b,
    h_c,
    h_i,
    h_j,
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
    at = batch * y_b + offsets(i, j, c, y_i, y_j, y_c)
    tl.store(y + at, fused, mask=seen[:, None] & channel[None, :])


@triton.jit
def _fuse_back(
    grad,
    weights,
    grad_h,
    grad_b,
    grad_c,
    grad_i,
    grad_j,
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
    program = tl.program_id(0)
    c, channel = channels(program % blocks, C, BLOCK_C)
    batch, top, left, i, j, seen = cells(
        program // blocks, H, W, across, count, BLOCK_H, BLOCK_W
    )
    grad += batch * grad_b
    sums = gather(
        grad,
        None,
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
        0,
        0,
        DILATIONS,
        COUNT,
        BLOCK_H,
        BLOCK_W,
        ACC,
    )
    at = batch * h_b + offsets(i, j, c, h_i, h_j, h_c)
    tl.store(grad_h + at, sums, mask=seen[:, None] & channel[None, :])


@triton.jit
def _sum_taps(
    grad,
    h,
    sums,
    grad_b,
    grad_c,
    grad_i,
    grad_j,
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
    """sums: (rows, 9 K, C), a row for `each` patches."""
    program = tl.program_id(0)
    c, channel = channels(program % blocks, C, BLOCK_C)
    run = program // blocks
    total = tl.zeros([BLOCK_T, BLOCK_C], dtype=ACC)
    for place in range(run * each, tl.minimum((run + 1) * each, batches * count)):
        batch, _, _, i, j, seen = cells(place, H, W, across, count, BLOCK_H, BLOCK_W)
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
        sums_here, _ = tap_sums(
            g,
            h + batch * h_b,
            None,
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
    t = tl.arange(0, BLOCK_T)
    at = (run.to(tl.int64) * 9 * COUNT + t[:, None]) * C + c[None, :]
    tl.store(sums + at, total, mask=(t < 9 * COUNT)[:, None] & channel[None, :])


def _empty_fused(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: list[int]
) -> Tensor:
    return torch.empty_like(h, dtype=precision(h, kernels, alpha))


@_adjoint.register_fake
def _(
    grad: Tensor, h: Tensor, kernels: Tensor, alpha: Tensor, dilations: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(h),
        kernels.new_empty(kernels.shape),
        alpha.new_empty(alpha.shape),
    )


def _save(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.dilations = inputs[3]


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_adjoint(grad, *ctx.saved_tensors, ctx.dilations), None


_fused.register_fake(_empty_fused)
_fused.register_autograd(_backward, setup_context=_save)
