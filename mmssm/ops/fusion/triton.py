"""Fusion and observation as Triton kernels near the bandwidth of the memory.

    y = C * fusion(h) + D * u
The fused states are never stored: the forward pass reads h, C and u and writes y, and
the adjoint computes them anew.  Without C, D and u it is the fusion.

Maps are contiguous, channels last.  A program owns neighbouring columns and channels, a
tile, and walks down the rows of a band; a row it reads is in the cache for as long as
the taps of later rows need it.  A cell outside the map is the nearest one of the map:
the columns are clamped once for a program, the rows once for a row.

The adjoint takes two walks.  The first multiplies the gradient by C, keeps the product,
and sums over cells in registers: for each tap the product times what the tap reads, and
the gradients of C and D.  Each program writes one row of a buffer, which torch adds up.
The second gathers: a cell collects the product from all that read it.  These are one
cell for each tap; the product ends in zeros, one more column and one more row, for
those outside the map.  Cells on the border are also read from beyond it, and small
kernels add that.  No atomics: the same bits every time.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.division import covering, power_of_2
from mmssm.ops.operator import differentiable
from mmssm.ops.precision import precision

COLUMNS = 8  # of a tile: 56 and 334 are multiples, and 7, 14 and 28 almost
CHANNELS = 64  # 256 bytes of float32
CHANNELS_FORWARD = 128  # where fewer registers are needed
ROWS = 32  # at most, of a band: a reach of 5 makes it read 10 more
PROGRAMS = 1056  # at least, if there are rows for them: 8 for a multiprocessor of 132


def state_fusion_triton(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> Tensor:
    """Same shapes as the naive twin, any floating-point dtypes; lies channels last.

    Sums and the result are in float64 if any input is and in float32 otherwise.
    """
    dtype = precision(h, kernels, alpha)
    return _run(h, None, None, None, kernels, alpha, dilations, dtype)


def observe_triton(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
    dtype: torch.dtype | None,
) -> Tensor:
    """Same shapes as the naive twin, any floating-point dtypes; lies channels last.

    Sums are in float64 if any input is and in float32 otherwise.
    """
    dtype = dtype or precision(h, C, u, D, kernels, alpha)
    return _run(h, C, u, D, kernels, alpha, dilations, dtype)


class Walk(NamedTuple):
    """How a batch of maps is divided; the last two are the sizes of a tile.

    rows: of a band.  bands: of a map.  across: tiles in a row.  blocks: of channels.
    """

    rows: int
    bands: int
    across: int
    blocks: int
    columns: int
    channels: int


def walk(h: Tensor, most: int | None = None) -> Walk:
    """The same for the same shape.  most: channels of a tile; None: CHANNELS."""
    batch, channels, height, width = h.shape
    block = min(most or CHANNELS, power_of_2(channels))
    blocks, across = covering(channels, block), covering(width, COLUMNS)
    bands = covering(PROGRAMS, batch * across * blocks)
    rows = min(ROWS, max(4, covering(height, bands)))
    bands = covering(height, rows)
    return Walk(rows, bands, across, blocks, COLUMNS, block)


def runs(h: Tensor) -> tuple[int, int]:
    """How many programs sum over cells, for each tile of a row, over how many bands."""
    plan = walk(h)
    total = len(h) * plan.bands
    each = covering(total * plan.across * plan.blocks, 2 * PROGRAMS)
    return covering(total, each), each


def _observe(
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
    dtype: torch.dtype,
) -> Tensor:
    y, plan = _empty(h, dtype), walk(h, CHANNELS_FORWARD)
    scale, step = _cells(C)
    with torch.cuda.device_of(h):
        _forward[(len(h) * plan.bands * plan.across * plan.blocks,)](
            _rows(h),
            scale,
            _rows(u),
            D if D is None else D.contiguous(),
            kernels.contiguous(),
            alpha.contiguous(),
            y,
            step,
            *h.shape[1:],
            *plan[:4],
            **_constants(plan, h, C, u, D, kernels, alpha, dilations),
            num_warps=4,
        )
    return y.permute(0, 3, 1, 2)


def _observe_adjoint(
    grad: Tensor,
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    kernels: Tensor,
    alpha: Tensor,
    dilations: list[int],
    dtype: torch.dtype,
    needs: list[bool],
) -> list[Tensor]:
    plan, (count, each) = walk(h), runs(h)
    constants = _constants(plan, h, C, u, D, kernels, alpha, dilations)
    wide = torch.float64 if constants['ACC'] == tl.float64 else torch.float32
    batch, channels, height, width = h.shape
    scale, step = _cells(C)
    kernels, alpha = kernels.contiguous(), alpha.contiguous()

    def new(*size: int) -> Tensor:
        return torch.empty(size, dtype=wide, device=h.device)

    product = new(batch * height + 1, width + 1, channels)
    product[:, width] = 0
    product[batch * height] = 0
    sums = new(count * plan.across, 8 * len(dilations) + 2, channels)
    grad_u = sums_C = weights = None
    if C is not None:
        grad_u = _empty(h, u.dtype)
        sums_C = new(plan.blocks, batch, 1, height, width)
        weights = new(covering(channels, 4), 8 * len(dilations) + 1, 4)
    with torch.cuda.device_of(h):
        if C is not None:
            _scaled[(plan.blocks,)](kernels, alpha, weights, channels, **constants)
        _sums[(count * plan.across * plan.blocks,)](
            _rows(grad),
            _rows(h),
            scale,
            _rows(u),
            D if D is None else D.contiguous(),
            weights,
            product,
            grad_u,
            sums,
            sums_C,
            step,
            *h.shape[1:],
            *plan[:4],
            batch,
            each,
            AT_ONCE=2,
            **constants,
            num_warps=4,
        )
    grad_h = h.new_empty(0)
    if needs[0]:
        grad_h = _gather(product, h, kernels, alpha, plan, constants).to(h.dtype)
    total = sums.sum(0, dtype=torch.float64)
    taps = _taps_adjoint(total[:-1], kernels, alpha)
    if C is None:
        return [grad_h, *taps]
    grad_u = grad_u.permute(0, 3, 1, 2)
    return [grad_h, sums_C.sum(0).to(C.dtype), grad_u, total[-1].to(D.dtype), *taps]


def _gather(
    product: Tensor,
    h: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    plan: Walk,
    constants: dict,
) -> Tensor:
    """The gradient of h, (B, C, H, W), from `product`, (B H + 1, W + 1, C)."""
    batch, channels, height, width = h.shape
    grad_h = _empty(h, product.dtype)
    pitch, line = (width + 1) * channels, width * channels
    horizontal = (width, height, channels, pitch, channels, line, 1, 6, 1)
    vertical = (height, width, pitch, channels, line, channels, 3, 2, 0)
    with torch.cuda.device_of(h):
        _back[(batch * plan.bands * plan.across * plan.blocks,)](
            product,
            kernels,
            alpha,
            grad_h,
            batch * height,
            *h.shape[1:],
            *plan[:4],
            **constants,
            num_warps=2,
        )
        for side in (horizontal, vertical):
            parts = covering(side[0], plan.columns)
            _border[(batch * parts * plan.blocks,)](
                product,
                kernels,
                alpha,
                grad_h,
                *side,
                height * pitch,
                height * line,
                channels,
                parts,
                plan.blocks,
                **constants,
                num_warps=4,
            )
    return grad_h.permute(0, 3, 1, 2)


def _taps_adjoint(
    sums: Tensor, kernels: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of kernels and alpha from those of the taps, (8 K + 1, C).

    In double: that of alpha is a sum in which much cancels.
    """
    around = sums[1:].unflatten(0, (-1, 8))
    centre = sums[:1].expand(len(around), 1, -1)
    grad = torch.cat([around[:, :4], centre, around[:, 4:]], 1)  # (K, 9, C)
    grad = grad.mT.unflatten(2, (1, 3, 3))
    grad_alpha = (grad * kernels).flatten(1).sum(1)
    grad = grad * alpha[:, None, None, None, None]
    return grad.to(kernels.dtype).contiguous(), grad_alpha.to(alpha.dtype)


def _empty(h: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, H, W, C) for h: (B, C, H, W)."""
    batch, channels, height, width = h.shape
    size = (batch, height, width, channels)
    return torch.empty(size, dtype=dtype, device=h.device)


def _rows(x: Tensor | None) -> Tensor | None:
    """(B, C, H, W) -> (B, H, W, C), contiguous; no copy if it lies channels last."""
    return None if x is None else x.permute(0, 2, 3, 1).contiguous()


def _cells(C: Tensor | None) -> tuple[Tensor | None, int]:
    """(B, 1, H, W) -> (B H W,) and its stride; no copy of a slice of channels last."""
    if C is None:
        return None, 0
    cells = C.permute(0, 2, 3, 1).reshape(-1)
    return cells, cells.stride(0)


def _constants(plan: Walk, h: Tensor, *rest: Tensor | list[int] | None) -> dict:
    """What the kernels are compiled for."""
    *tensors, dilations = rest
    dtype = precision(h, *(t for t in tensors if t is not None))
    furthest = max(h.shape[2:])  # all taps from here on read the border
    return dict(
        DILATIONS=tuple(min(d, furthest) for d in dilations),
        BLOCK_W=plan.columns,
        BLOCK_C=plan.channels,
        EVEN=h.shape[1] % plan.channels == 0,
        ACC=tl.float64 if dtype == torch.float64 else tl.float32,
    )


# Compiled once for all of them.  C and its multiples are left to Triton: by 16 or not,
# they tell how many numbers are read at once.
SIZES = [
    *('H', 'W', 'rows', 'bands', 'across', 'blocks', 'batches', 'each', 'scale_step'),
    *('zeros', 'length', 'depth', 'step', 'jump', 'corners', 'parts'),
]


@triton.jit
def _tile(C, W, block, tile, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Columns (BLOCK_W, 1), channels (1, BLOCK_C), and which of the cells there are."""
    j = tile * BLOCK_W + tl.arange(0, BLOCK_W)[:, None]
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    if BLOCK_C >= 4:  # a thread takes four of them, whatever the dtypes
        c = tl.max_contiguous(tl.multiple_of(c, [1, 4]), [1, 4])
    return j, c, (j < W) & (c < C)


@triton.jit
def _inside(c, C, EVEN: tl.constexpr):
    """Channels to read: where there are none, the last one."""
    if EVEN:
        return c
    return tl.minimum(c, C - 1)


@triton.jit
def _near(i, size, DILATIONS: tl.constexpr):
    """i, and for each dilation the places before and behind it, within the map."""
    near = (tl.minimum(i, size - 1),)
    for k in tl.static_range(len(DILATIONS)):
        near = near + (tl.minimum(tl.maximum(i - DILATIONS[k], 0), size - 1),)
        near = near + (tl.minimum(tl.maximum(i + DILATIONS[k], 0), size - 1),)
    return near


@triton.jit
def _offsets(near, factor, c):
    """near * factor + c for each."""
    offsets = ()
    for n in tl.static_range(len(near)):
        offsets = offsets + (near[n] * factor + c,)
    return offsets


@triton.jit
def _starts(h, near, line):
    """Where the rows begin, in 64 bits."""
    starts = ()
    for n in tl.static_range(len(near)):
        starts = starts + (h + near[n].to(tl.int64) * line,)
    return starts


@triton.jit
def _weight(kernels, alpha, c, C, k, tap, ACC: tl.constexpr):
    weight = tl.load(kernels + (k * C + c) * 9 + tap).to(ACC)
    return weight * tl.load(alpha + k).to(ACC)


@triton.jit
def _weights(
    kernels, alpha, c, C, DILATIONS: tl.constexpr, BACK: tl.constexpr, ACC: tl.constexpr
):
    """Of the centre, and eight around it for each dilation; the last first if BACK."""
    centre = _weight(kernels, alpha, c, C, 0, 4, ACC)
    for k in tl.static_range(1, len(DILATIONS)):
        centre += _weight(kernels, alpha, c, C, k, 4, ACC)
    weights = (centre,)
    for n in tl.static_range(8 * len(DILATIONS)):
        tap = n % 8 + n % 8 // 4
        if BACK:
            tap = 8 - tap
        weights = weights + (_weight(kernels, alpha, c, C, n // 8, tap, ACC),)
    return weights


@triton.jit
def _fours(c, size, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Offsets of the first weight of channels; weights lie (C / 4, size, 4)."""
    at = c // 4 * 4 * size + c % 4
    if EVEN and BLOCK_C >= 4:
        at = tl.max_contiguous(tl.multiple_of(at, [1, 4]), [1, 4])
    return at


@triton.jit
def _scaled(
    kernels,
    alpha,
    weights,
    C,
    DILATIONS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """The weights of all taps as `_sums` reads them again and again."""
    TAPS: tl.constexpr = 8 * len(DILATIONS)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = tl.minimum(c, C - 1)
    scaled = _weights(kernels, alpha, inside, C, DILATIONS, False, ACC)
    for n in tl.static_range(TAPS + 1):
        at = _fours(c, TAPS + 1, BLOCK_C, False) + 4 * n
        tl.store(weights + at, scaled[n], mask=c < C)


@triton.jit
def _read(starts, columns, N: tl.constexpr, ACC: tl.constexpr):
    """What tap N of those around the centre reads."""
    tap: tl.constexpr = N % 8 + N % 8 // 4
    first: tl.constexpr = 1 + N // 8 * 2
    row: tl.constexpr = 0 if tap // 3 == 1 else first + tap // 3 // 2
    column: tl.constexpr = 0 if tap % 3 == 1 else first + tap % 3 // 2
    return tl.load(starts[row] + columns[column]).to(ACC)


@triton.jit
def _stencil(starts, columns, weights, ACC: tl.constexpr):
    """Sum of weight times cell over all taps."""
    fused = weights[0] * tl.load(starts[0] + columns[0]).to(ACC)
    for k in tl.static_range((len(weights) - 1) // 8):
        part = weights[8 * k + 1] * _read(starts, columns, 8 * k, ACC)
        for n in tl.static_range(8 * k + 1, 8 * k + 8):
            part += weights[n + 1] * _read(starts, columns, n, ACC)
        fused += part  # sums of few terms are more exact
    return fused


@triton.jit(do_not_specialize=SIZES)
def _forward(
    h,
    scale,
    u,
    skip,
    kernels,
    alpha,
    y,
    scale_step,
    C,
    H,
    W,
    rows,
    bands,
    across,
    blocks,
    DILATIONS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """scale: C of the op, (B H W,).  skip: its D.  C: the channels."""
    program = tl.program_id(0)
    rest = program // blocks
    band = rest // across
    j, c, here = _tile(C, W, program % blocks, rest % across, BLOCK_W, BLOCK_C)
    inside = _inside(c, C, EVEN)
    weights = _weights(kernels, alpha, inside, C, DILATIONS, False, ACC)
    columns = _offsets(_near(j, W, DILATIONS), C, inside)
    line = W * C
    batch = band // bands
    h += batch.to(tl.int64) * H * line
    if scale is not None:
        skips = tl.load(skip + inside).to(ACC)
        cells = tl.minimum(j, W - 1) * scale_step
    top = band % bands * rows
    for i in range(top, tl.minimum(top + rows, H)):
        starts = _starts(h, _near(i, H, DILATIONS), line)
        fused = _stencil(starts, columns, weights, ACC)
        row = (batch * H + i).to(tl.int64)
        if scale is not None:
            scales = tl.load(scale + row * W * scale_step + cells).to(ACC)
            value = tl.load(u + row * line + columns[0]).to(ACC)
            fused = scales * fused + skips * value
        tl.store(y + row * line + columns[0], fused, mask=here)


@triton.jit(do_not_specialize=SIZES)
def _sums(
    grad,
    h,
    scale,
    u,
    skip,
    weights,
    product,
    grad_u,
    sums,
    sums_C,
    scale_step,
    C,
    H,
    W,
    rows,
    bands,
    across,
    blocks,
    batches,
    each,
    AT_ONCE: tl.constexpr,
    DILATIONS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """product: (B H + 1, W + 1, C).  sums: (programs / blocks, 8 K + 2, C).

    sums_C: (blocks, B H W).
    """
    TAPS: tl.constexpr = 8 * len(DILATIONS)
    program = tl.program_id(0)
    block = program % blocks
    rest = program // blocks
    j, c, here = _tile(C, W, block, rest % across, BLOCK_W, BLOCK_C)
    inside = _inside(c, C, EVEN)
    columns = _offsets(_near(j, W, DILATIONS), C, inside)
    line = W * C
    if scale is not None:
        skips = tl.load(skip + inside).to(ACC)
        cells = tl.minimum(j, W - 1) * scale_step
        fours = weights + _fours(inside, TAPS + 1, BLOCK_C, EVEN)
    totals = ()
    for _ in tl.static_range(TAPS + 2):  # the last one is for the skip
        totals = totals + (tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC),)
    run = rest // across
    for band in range(run * each, tl.minimum(run * each + each, batches * bands)):
        top = band % bands * rows
        end = tl.minimum(top + rows, H)
        batch = band // bands
        map = h + batch.to(tl.int64) * H * line
        for i in range(top, end, AT_ONCE):
            starts = ()
            values = ()
            products = ()
            fused = ()
            for r in tl.static_range(AT_ONCE):
                row = (batch * H + tl.minimum(i + r, end - 1)).to(tl.int64)
                there = here & (i + r < end)
                starts = starts + (_starts(map, _near(i + r, H, DILATIONS), line),)
                value = tl.load(grad + row * line + columns[0]).to(ACC)
                value = tl.where(there, value, 0.0)
                g = value
                if scale is not None:
                    g *= tl.load(scale + row * W * scale_step + cells).to(ACC)
                    tl.store(
                        grad_u + row * line + columns[0], skips * value, mask=there
                    )
                at = row * (W + 1) * C + columns[0]
                tl.store(product + at, g, mask=there)
                values = values + (value,)
                products = products + (g,)
            more = ()
            for n in tl.static_range(TAPS + 1):
                total = totals[n]
                if scale is not None:
                    weight = tl.load(fours + 4 * n)
                mixed = ()
                for r in tl.static_range(AT_ONCE):
                    if n == 0:
                        near = tl.load(starts[r][0] + columns[0]).to(ACC)
                    else:
                        near = _read(starts[r], columns, n - 1, ACC)
                    total += products[r] * near
                    if scale is not None:
                        if n == 0:
                            mixed = mixed + (weight * near,)
                        else:
                            mixed = mixed + (fused[r] + weight * near,)
                fused = mixed
                more = more + (total,)
            total = totals[TAPS + 1]
            if scale is not None:
                for r in tl.static_range(AT_ONCE):
                    row = (batch * H + tl.minimum(i + r, end - 1)).to(tl.int64)
                    total += values[r] * tl.load(u + row * line + columns[0]).to(ACC)
                    at = (block * batches * H + row) * W + j
                    cell = tl.sum(values[r] * fused[r], axis=1, keep_dims=True)
                    tl.store(sums_C + at, cell, mask=(j < W) & (i + r < end))
            totals = more + (total,)
    sums += rest.to(tl.int64) * (TAPS + 2) * C
    for n in tl.static_range(TAPS + 2):
        total = tl.sum(totals[n], axis=0, keep_dims=True)
        tl.store(sums + n * C + c, total, mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def _back(
    product,
    kernels,
    alpha,
    grad_h,
    zeros,
    C,
    H,
    W,
    rows,
    bands,
    across,
    blocks,
    DILATIONS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """zeros: the row of the product that holds them; its column W does."""
    program = tl.program_id(0)
    rest = program // blocks
    band = rest // across
    j, c, here = _tile(C, W, program % blocks, rest % across, BLOCK_W, BLOCK_C)
    inside = _inside(c, C, EVEN)
    weights = _weights(kernels, alpha, inside, C, DILATIONS, True, ACC)
    columns = _offsets(_within(j, W, W, 0, DILATIONS), C, inside)
    pitch = (W + 1) * C
    first = band // bands * H
    top = band % bands * rows
    for i in range(top, tl.minimum(top + rows, H)):
        near = _within(i, H, zeros, first, DILATIONS)
        fused = _stencil(_starts(product, near, pitch), columns, weights, ACC)
        at = (first + i).to(tl.int64) * W * C + columns[0]
        tl.store(grad_h + at, fused, mask=here)


@triton.jit
def _within(i, size, outside, first, DILATIONS: tl.constexpr):
    """As `_near`, counted from `first`; `outside` for places not of the map."""
    near = (tl.where(i < size, first + i, outside),)
    for k in tl.static_range(len(DILATIONS)):
        before = i - DILATIONS[k]
        behind = i + DILATIONS[k]
        is_before = (before >= 0) & (before < size)
        near = near + (tl.where(is_before, first + before, outside),)
        near = near + (tl.where(behind < size, first + behind, outside),)
    return near


@triton.jit(do_not_specialize=SIZES)
def _border(
    product,
    kernels,
    alpha,
    grad_h,
    length,
    depth,
    along,
    inward,
    along_h,
    inward_h,
    step,
    jump,
    corners,
    plane,
    plane_h,
    C,
    parts,
    blocks,
    DILATIONS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """Add to cells on two opposite borders what is read there from beyond them.

    A tap d beyond a border reads it from the d cells next to it.  length: of a border;
    depth: from one to the other.  along, inward: strides of the product, along_h,
    inward_h of grad_h; plane, plane_h: of a map.  Of the three taps beyond the first
    border the first has index 0 and the others follow in steps; beyond the second one
    the index is larger by jump.  corners: whether cells in corners are also read from
    beyond both borders that meet there.
    """
    program = tl.program_id(0)
    rest = program // blocks
    x, c, here = _tile(C, length, program % blocks, rest % parts, BLOCK_W, BLOCK_C)
    inside = _inside(c, C, EVEN)
    batch = (rest // parts).to(tl.int64)
    ends_low = (corners > 0) & (rest % parts == 0)
    ends_high = (corners > 0) & (rest % parts == parts - 1)
    for side in range(2):
        base = product + batch * plane + side * (depth - 1).to(tl.int64) * inward
        down = (1 - 2 * side) * tl.cast(inward, tl.int64)
        total = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
        for k in tl.static_range(len(DILATIONS)):
            d = DILATIONS[k]
            deep = tl.minimum(d, depth)
            wide = tl.minimum(d, length)
            low = x - d
            high = x + d
            # lanes whose tap is not of the map read nothing
            is_low = here & (low >= 0)
            is_high = here & (high < length)
            first = tl.zeros([BLOCK_W, BLOCK_C], dtype=ACC)
            middle = first
            last = first
            for a in range(deep):
                row = base + a * down + inside
                last += tl.load(
                    row + low.to(tl.int64) * along, mask=is_low, other=0.0
                ).to(ACC)
                middle += tl.load(
                    row + x.to(tl.int64) * along, mask=here, other=0.0
                ).to(ACC)
                first += tl.load(
                    row + high.to(tl.int64) * along, mask=is_high, other=0.0
                ).to(ACC)
                for b in range(tl.where(ends_low, wide, 0)):
                    value = tl.load(row + b * tl.cast(along, tl.int64)).to(ACC)
                    first += tl.where(x == 0, value, 0.0)
                for b in range(tl.where(ends_high, wide, 0)):
                    end = (length - 1 - b).to(tl.int64)
                    value = tl.load(row + end * along).to(ACC)
                    last += tl.where(x == length - 1, value, 0.0)
            tap = side * jump
            total += first * _weight(kernels, alpha, inside, C, k, tap, ACC)
            total += middle * _weight(kernels, alpha, inside, C, k, tap + step, ACC)
            total += last * _weight(kernels, alpha, inside, C, k, tap + 2 * step, ACC)
        at = batch * plane_h + side * (depth - 1).to(tl.int64) * inward_h
        at += x.to(tl.int64) * along_h + c
        total += tl.load(grad_h + at, mask=here, other=0.0)
        tl.store(grad_h + at, total, mask=here)


def _like(h: Tensor, *rest: Any) -> Tensor:
    return _empty(h, rest[-1]).permute(0, 3, 1, 2)


def _adjoint_like(
    grad: Tensor,
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    kernels: Tensor,
    alpha: Tensor,
    *rest: Any,
) -> list[Tensor]:
    *_, needs = rest
    grad_h = _empty(h, h.dtype).permute(0, 3, 1, 2) if needs[0] else h.new_empty(0)
    taps = [kernels.new_empty(kernels.shape), alpha.new_empty(alpha.shape)]
    if C is None:
        return [grad_h, *taps]
    grad_u = _empty(u, u.dtype).permute(0, 3, 1, 2)
    return [grad_h, C.new_empty(C.shape), grad_u, D.new_empty(D.shape), *taps]


_run = differentiable(
    'mmssm::observe_triton', _observe, _observe_adjoint, _like, _adjoint_like
)
