"""State fusion, and its observation, as Triton kernels that walk down the rows.

    y = C * fusion(h) + D * u
A program owns a block of columns, a block of channels and a band of rows, which it goes
down row by row: the rows that the taps share stay in the cache, weights and offsets in
registers.  Maps are (B, H, W, C) in memory.  The fused states are never stored; the
fusion alone is the observation without C, D and u.

The adjoint of h gathers, so that no two programs add to one place: a cell collects from
all that read it.  These are one cell for each tap; cells of the first and the last row
also stand for the rows beyond, which the same walk adds, and those of the first and the
last column for the columns beyond, which a small kernel adds afterwards.  Sums over
cells run in registers and go through a buffer with a row for each program, added up by
torch: the same bits every time.  The gradient can be taken once.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op

from mmssm.ops.precision import precision

COLUMNS = 16
TILE = 512  # numbers of a row of a program: 4 for each thread of 4 warps
PROGRAMS = 1024  # several for each multiprocessor of a large GPU
ROWS = 8  # least of a band, which reads 2 * 5 more at dilation 5
LARGEST = 2**31  # numbers of a map that 32 bits can tell apart
SIZES = ['H', 'W', 'scale_p', 'across', 'blocks', 'bands', 'rows']


def state_fusion_triton(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> Tensor:
    """Same shapes as the naive twin; the result lies channels last in memory.

    Inputs of any floating-point dtype; sums and the result are in float64 if any of
    them is and in float32 otherwise.  Raises ValueError for a map of 2^31 numbers.
    """
    dtype = precision(h, kernels, alpha)
    return _observed(h, None, None, None, kernels, alpha, dilations, dtype)


def observe_triton(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """C * fusion(h) + D * u, channels last in memory.

    h, u: (B, D, H, W).  C: (B, 1, H, W).  D: (D,).  kernels: (K, D, 1, 3, 3).
    alpha: (K,).  dtype: of the result, by default that of the sums, which are in
    float64 if any input is and in float32 otherwise.  Raises ValueError for a map of
    2^31 numbers.
    """
    dtype = dtype or precision(h, C, u, D, kernels, alpha)
    return _observed(h, C, u, D, kernels, alpha, dilations, dtype)


class Walk(NamedTuple):
    """How a map is divided among programs.

    columns, channels: of a program, powers of two.  across, blocks: how many of them
    side by side.  bands: of rows; rows: of each.
    """

    columns: int
    channels: int
    across: int
    blocks: int
    bands: int
    rows: int


def walk(h: Tensor) -> Walk:
    """The same for the same shape (B, C, H, W)."""
    batch, count, height, width = h.shape
    columns = min(COLUMNS, triton.next_power_of_2(width))
    channels = min(TILE // columns, triton.next_power_of_2(count), 64)
    across, blocks = triton.cdiv(width, columns), triton.cdiv(count, channels)
    wanted = triton.cdiv(PROGRAMS, batch * across * blocks)
    bands = max(1, min(wanted, height // ROWS))
    rows = triton.cdiv(height, bands)
    return Walk(columns, channels, across, blocks, triton.cdiv(height, rows), rows)


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


def _cells(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), copied if it does not lie so in memory."""
    return maps.permute(0, 2, 3, 1).contiguous()


def _evenly(scale: Tensor) -> Tensor:
    """(B, 1, H, W) with one stride from cell to cell, as slices of projections have."""
    batch, _, height, width = scale.shape
    cell = scale.stride(3)
    even = (height * width * cell, width * cell, cell)
    found = (scale.stride(0), scale.stride(2), scale.stride(3))
    sizes = (batch, height, width)
    fits = all(s == 1 or a == b for s, a, b in zip(sizes, found, even, strict=True))
    return scale if fits and (cell or width == 1) else scale.contiguous()


def _constants(h: Tensor, dilations: list[int], acc: torch.dtype) -> dict:
    """What the kernels are compiled for."""
    plan, (count, height, width) = walk(h), h.shape[1:]
    if count * height * width >= LARGEST:
        raise ValueError(
            f'h has shape {tuple(h.shape)}, {count * height * width} numbers for each '
            "sample; the Triton kernels take fewer than 2^31: backend='shared_border'"
        )
    furthest = max(height, width)  # all taps from here on read the border
    near = [min(d, furthest) for d in dilations]
    return dict(
        DILATIONS=sum(d << 16 * k for k, d in enumerate(near)),
        COUNT=len(near),
        REACH=max(near),
        BLOCK_W=plan.columns,
        BLOCK_C=plan.channels,
        EVEN=count % plan.channels == 0,
        ACC=tl.float64 if acc == torch.float64 else tl.float32,
        num_warps=4,
    )


def _sizes(h: Tensor) -> tuple[int, ...]:
    """C, H, W, across, blocks, bands, rows."""
    return *h.shape[1:], *walk(h)[2:]


@custom_op('mmssm::observe_triton', mutates_args=())
def _observed(
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
    dtype: torch.dtype,
) -> Tensor:
    y = _empty_observed(h, C, u, D, kernels, alpha, dilations, dtype)
    acc = precision(*(t for t in (h, C, u, D, kernels, alpha) if t is not None))
    plan, weights = walk(h), taps(kernels, alpha, acc)
    scale = C if C is None else _evenly(C)
    with torch.cuda.device_of(h):
        _observe[(len(h) * plan.across * plan.blocks * plan.bands,)](
            _cells(h),
            scale,
            u if u is None else _cells(u),
            D if D is None else D.contiguous(),
            weights,
            y.permute(0, 2, 3, 1),
            0 if scale is None else scale.stride(3),
            *_sizes(h),
            **_constants(h, dilations, acc),
        )
    return y


@custom_op('mmssm::observe_triton_adjoint', mutates_args=())
def _adjoint(
    grad: Tensor,
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
) -> list[Tensor]:
    """Gradients of h, kernels, alpha and, where given, of C, u and D."""
    acc = precision(*(t for t in (h, C, u, D, kernels, alpha) if t is not None))
    plan, fixed, sizes = walk(h), _constants(h, dilations, acc), _sizes(h)
    weights, cells, grad = taps(kernels, alpha, acc), _cells(h), _cells(grad)
    rows = len(h) * plan.across * plan.bands
    grid = (rows * plan.blocks,)
    grad_h = torch.empty_like(cells)
    sums = weights.new_zeros(rows, *weights.shape)
    others: list[Tensor] = []
    with torch.cuda.device_of(h):
        if C is not None:
            scale, grad_u = _evenly(C), torch.empty_like(_cells(u))
            scaled = torch.empty_like(grad, dtype=acc)
            sums_C = weights.new_empty(plan.blocks, *C.shape)
            sums_D = weights.new_empty(rows, len(D))
            _observe_cells_back[grid](
                grad,
                cells,
                scale,
                _cells(u),
                D.contiguous(),
                weights,
                scaled,
                grad_u,
                sums_C,
                sums_D,
                scale.stride(3),
                *sizes,
                **fixed,
            )
            grad = scaled
            others = [
                sums_C.sum(0).to(C.dtype),
                grad_u.permute(0, 3, 1, 2),
                sums_D.sum(0).to(D.dtype),
            ]
        _sum_taps[grid](grad, cells, sums, *sizes, **fixed)
        _spread_rows[grid](grad, weights, grad_h, *sizes, **fixed)
        down = triton.cdiv(h.shape[2], plan.columns)
        _spread_columns[(len(h) * plan.blocks * down,)](
            grad, weights, grad_h, *h.shape[1:], plan.blocks, down, **fixed
        )
    return [grad_h.permute(0, 3, 1, 2), *taps_adjoint(sums, kernels, alpha), *others]


@triton.jit
def _place(across, blocks, bands, C, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's run of sums, batch, band, channels and columns."""
    program = tl.program_id(0)
    run = program // blocks
    c = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    j = run % across * BLOCK_W + tl.arange(0, BLOCK_W)
    band = run // across % bands
    batch = (run // (across * bands)).to(tl.int64)
    return run, batch, band, c, j


@triton.jit
def _weights(weights, c, C, COUNT: tl.constexpr, EVEN: tl.constexpr, ACC: tl.constexpr):
    """One (BLOCK_C,) for each tap; only the first centre is used."""
    taps = ()
    for t in tl.static_range(9 * COUNT):
        if EVEN:
            taps = taps + (tl.load(weights + t * C + c),)
        else:
            taps = taps + (tl.load(weights + t * C + c, mask=c < C, other=0.0),)
    return taps


@triton.jit
def _read(maps, at, mask, EVEN: tl.constexpr, ACC: tl.constexpr):
    """Numbers of a map; where EVEN, every place lies in it."""
    if EVEN:
        return tl.load(maps + at).to(ACC)
    else:
        return tl.load(maps + at, mask=mask, other=0.0).to(ACC)


@triton.jit
def _fused(
    h,
    taps,
    i,
    j,
    c,
    H,
    W,
    C,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """The fused states of a row of cells, (BLOCK_W, BLOCK_C)."""
    total = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    for k in tl.static_range(COUNT):
        d = (DILATIONS >> (16 * k)) & 0xFFFF
        for t in tl.static_range(9):
            if k == 0 or t != 4:
                row = tl.minimum(tl.maximum(i + (t // 3 - 1) * d, 0), H - 1)
                column = tl.minimum(tl.maximum(j + (t % 3 - 1) * d, 0), W - 1)
                at = row * W * C + (column * C)[:, None] + c[None, :]
                value = _read(h, at, (c < C)[None, :], EVEN, ACC)
                total += taps[9 * k + t][None, :] * value
    return total


@triton.jit
def _gathered(
    grad,
    taps,
    i,
    j,
    c,
    here,
    H,
    W,
    C,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ACC: tl.constexpr,
):
    """What cells that read (i, j) hand back, (BLOCK_W, BLOCK_C); i or j is a vector.

    here: (BLOCK_W, BLOCK_C).  (i, j) may lie beyond the map.
    """
    total = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    for k in tl.static_range(COUNT):
        d = (DILATIONS >> (16 * k)) & 0xFFFF
        for t in tl.static_range(9):
            if k == 0 or t != 4:
                row, column = i - (t // 3 - 1) * d, j - (t % 3 - 1) * d
                inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
                at = ((row * W + column) * C)[:, None] + c[None, :]
                value = tl.load(grad + at, mask=inside[:, None] & here, other=0.0)
                total += taps[9 * k + t][None, :] * value.to(ACC)
    return total


@triton.jit(do_not_specialize=SIZES)
def _observe(
    h,
    scale,
    u,
    skip,
    weights,
    y,
    scale_p,
    C,
    H,
    W,
    across,
    blocks,
    bands,
    rows,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    REACH: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """scale: C of the op, or None for the fusion alone.  skip: its D.  C: channels."""
    _, batch, band, c, j = _place(across, blocks, bands, C, BLOCK_W, BLOCK_C)
    h += batch * H * W * C
    y += batch * H * W * C
    taps = _weights(weights, c, C, COUNT, EVEN, ACC)
    here = (j < W)[:, None] & (c < C)[None, :]
    if scale is not None:
        u += batch * H * W * C
        scale += batch * H * W * scale_p
        through = tl.load(skip + c, mask=c < C, other=0.0).to(ACC)
    for i in range(band * rows, tl.minimum(band * rows + rows, H)):
        total = _fused(
            h, taps, i, j, c, H, W, C, DILATIONS, COUNT, BLOCK_W, BLOCK_C, EVEN, ACC
        )
        at = ((i * W + j) * C)[:, None] + c[None, :]
        if scale is not None:
            s = tl.load(scale + (i * W + j) * scale_p, mask=j < W, other=0.0).to(ACC)
            seen = tl.load(u + at, mask=here, other=0.0).to(ACC)
            total = s[:, None] * total + through[None, :] * seen
        tl.store(y + at, total, mask=here)


@triton.jit(do_not_specialize=SIZES)
def _observe_cells_back(
    grad,
    h,
    scale,
    u,
    skip,
    weights,
    scaled,
    grad_u,
    sums_C,
    sums_D,
    scale_p,
    C,
    H,
    W,
    across,
    blocks,
    bands,
    rows,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    REACH: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """scaled = C grad; grad_u = D grad; sums_C (blocks, B, H, W); sums_D (runs, C)."""
    run, batch, band, c, j = _place(across, blocks, bands, C, BLOCK_W, BLOCK_C)
    base = batch * H * W * C
    taps = _weights(weights, c, C, COUNT, EVEN, ACC)
    here = (j < W)[:, None] & (c < C)[None, :]
    through = tl.load(skip + c, mask=c < C, other=0.0).to(ACC)
    total_D = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
    block = (tl.program_id(0) % blocks).to(tl.int64)
    batches = tl.num_programs(0) // (across * blocks * bands)
    sums_C += (block * batches + batch) * H * W
    scale += batch * H * W * scale_p
    for i in range(band * rows, tl.minimum(band * rows + rows, H)):
        at = ((i * W + j) * C)[:, None] + c[None, :]
        g = tl.load(grad + base + at, mask=here, other=0.0).to(ACC)
        s = tl.load(scale + (i * W + j) * scale_p, mask=j < W, other=0.0).to(ACC)
        seen = tl.load(u + base + at, mask=here, other=0.0).to(ACC)
        fused = _fused(
            h + base,
            taps,
            i,
            j,
            c,
            H,
            W,
            C,
            DILATIONS,
            COUNT,
            BLOCK_W,
            BLOCK_C,
            EVEN,
            ACC,
        )
        total_D += g * seen
        tl.store(scaled + base + at, s[:, None] * g, mask=here)
        tl.store(grad_u + base + at, through[None, :] * g, mask=here)
        tl.store(sums_C + i * W + j, tl.sum(g * fused, axis=1), mask=j < W)
    tl.store(sums_D + run.to(tl.int64) * C + c, tl.sum(total_D, axis=0), mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def _sum_taps(
    grad,
    h,
    sums,
    C,
    H,
    W,
    across,
    blocks,
    bands,
    rows,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    REACH: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """sums (runs, 9 K, C): for each tap the product of grad and what it reads."""
    run, batch, band, c, j = _place(across, blocks, bands, C, BLOCK_W, BLOCK_C)
    h += batch * H * W * C
    grad += batch * H * W * C
    here = (j < W)[:, None] & (c < C)[None, :]
    totals = ()
    for t in tl.static_range(9 * COUNT):
        totals = totals + (tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC),)
    for i in range(band * rows, tl.minimum(band * rows + rows, H)):
        at = ((i * W + j) * C)[:, None] + c[None, :]
        g = tl.load(grad + at, mask=here, other=0.0).to(ACC)
        added = ()
        for k in tl.static_range(COUNT):
            d = (DILATIONS >> (16 * k)) & 0xFFFF
            for t in tl.static_range(9):
                if k == 0 or t != 4:
                    row = tl.minimum(tl.maximum(i + (t // 3 - 1) * d, 0), H - 1)
                    column = tl.minimum(tl.maximum(j + (t % 3 - 1) * d, 0), W - 1)
                    at = row * W * C + (column * C)[:, None] + c[None, :]
                    value = _read(h, at, (c < C)[None, :], EVEN, ACC)
                    added = added + (totals[9 * k + t] + g * value,)
                else:
                    added = added + (totals[9 * k + t],)
        totals = added
    sums += run.to(tl.int64) * 9 * COUNT * C + c
    for k in tl.static_range(COUNT):
        for t in tl.static_range(9):
            if k == 0 or t != 4:
                summed = tl.sum(totals[9 * k + t], axis=0)
                tl.store(sums + (9 * k + t) * C, summed, mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def _spread_rows(
    grad,
    weights,
    grad_h,
    C,
    H,
    W,
    across,
    blocks,
    bands,
    rows,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    REACH: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """The gradient of h but for what comes from columns beyond the map."""
    _, batch, band, c, j = _place(across, blocks, bands, C, BLOCK_W, BLOCK_C)
    grad += batch * H * W * C
    grad_h += batch * H * W * C
    taps = _weights(weights, c, C, COUNT, EVEN, ACC)
    here = (j < W)[:, None] & (c < C)[None, :]
    for i in range(band * rows, tl.minimum(band * rows + rows, H)):
        total = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
        first = tl.where(i == 0, -REACH, i)
        last = tl.where(i == H - 1, H - 1 + REACH, i)
        for r in range(first, last + 1):
            total += _gathered(
                grad,
                taps,
                r,
                j,
                c,
                here,
                H,
                W,
                C,
                DILATIONS,
                COUNT,
                BLOCK_W,
                BLOCK_C,
                ACC,
            )
        tl.store(grad_h + ((i * W + j) * C)[:, None] + c[None, :], total, mask=here)


@triton.jit(do_not_specialize=['H', 'W', 'blocks', 'down'])
def _spread_columns(
    grad,
    weights,
    grad_h,
    C,
    H,
    W,
    blocks,
    down,
    DILATIONS: tl.constexpr,
    COUNT: tl.constexpr,
    REACH: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """Add to the first and the last column what those beyond the map hand back.

    A program owns BLOCK_W cells of both; corners stand for rows beyond, too.
    """
    _, batch, part, c, i = _place(1, blocks, down, C, 1, BLOCK_C)
    top = part * BLOCK_W
    i = top + tl.arange(0, BLOCK_W)
    grad += batch * H * W * C
    grad_h += batch * H * W * C
    taps = _weights(weights, c, C, COUNT, EVEN, ACC)
    here = (i < H)[:, None] & (c < C)[None, :]
    first = tl.where(top == 0, -REACH, 0)
    last = tl.where(top + BLOCK_W >= H, REACH, 0)
    for side in range(0, 2):
        at = ((i * W + side * (W - 1)) * C)[:, None] + c[None, :]
        total = tl.load(grad_h + at, mask=here, other=0.0).to(ACC)
        for beyond in range(1, REACH + 1):
            j = tl.where(side == 0, -beyond, W - 1 + beyond)
            for shift in range(first, last + 1):
                stands = (shift == 0) | (i == tl.where(shift < 0, 0, H - 1))
                total += _gathered(
                    grad,
                    taps,
                    i + shift,
                    j,
                    c,
                    here & stands[:, None],
                    H,
                    W,
                    C,
                    DILATIONS,
                    COUNT,
                    BLOCK_W,
                    BLOCK_C,
                    ACC,
                )
        tl.debug_barrier()  # a map of one column has both sides in one place
        tl.store(grad_h + at, total, mask=here)
        tl.debug_barrier()


def _empty_observed(
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty_like(h, dtype=dtype, memory_format=torch.channels_last)


@_adjoint.register_fake
def _(
    grad: Tensor,
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
) -> list[Tensor]:
    last = torch.channels_last
    grads = [
        torch.empty_like(h, memory_format=last),
        kernels.new_empty(kernels.shape),
        alpha.new_empty(alpha.shape),
    ]
    if C is not None:
        grad_u = torch.empty_like(u, memory_format=last)
        grads += [C.new_empty(C.shape), grad_u, D.new_empty(D.shape)]
    return grads


def _save(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.dilations, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, kernels, alpha, *others = _adjoint(grad, *ctx.saved_tensors, ctx.dilations)
    C, u, D = others or (None, None, None)
    return h, C, u, D, kernels, alpha, None, None


_observed.register_fake(_empty_observed)
_observed.register_autograd(_backward, setup_context=_save)
