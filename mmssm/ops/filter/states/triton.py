"""States by a single Triton kernel each way.

Inside the map h follows a first-order recurrence along a row, which a scan solves, and
v follows from the row above at the same column.  A program owns a few pairs and walks
down the rows of a band of columns with the states of one row in registers; what enters
a band from the left is read from memory, where the band before has left it.  The scan
composes affine maps and yields each without its last factor too, so that no value has
to move to a neighbouring column.  Where a map is higher than wide, rows and columns, h
and v change places.

The adjoint walks from the last row and the last band and sums the gradients of the
parameters in registers: a pair belongs to one program, so that there are no atomics and
the same bits every time.

Complex numbers are two reals; for real ones the imaginary parts stand for nothing and
are never read.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.filter.states import axis_states, axis_states_adjoint

PAIRS = 4  # of a program: 16 bytes for each cell, and many programs
TILE = 2048  # numbers of a row at a time: 8 for each thread of 8 warps


def states_triton(A: Tensor, B: Tensor, height: int, width: int) -> Tensor:
    """As `states_wavefront`: (4, P), (2, P) -> (height, width, 2, P)."""
    row, column = axis_states(A, B, height, width)
    X = A.new_empty(height, width, 2, A.shape[1])
    X[0, :, 1] = 0
    X[:, 0, 0] = 0
    X[0, 0] = B
    X[0, 1:, 0] = row
    X[1:, 0, 1] = column
    if height > 1 and width > 1:
        sides = _orient(A, X)
        with torch.cuda.device_of(A):
            _sweep[(triton.cdiv(A.shape[1], PAIRS),)](
                sides.rates,
                _reals(X),
                *_strides(X, sides),
                *sides.sizes,
                **_constants(A, sides),
            )
    return X


def states_triton_adjoint(
    A: Tensor, B: Tensor, X: Tensor, G: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B from G, that of X = states_triton(A, B, ...)."""
    row, column = G[0, 1:, 0], G[1:, 0, 1]
    inside = torch.zeros_like(A)
    if X.shape[0] > 1 and X.shape[1] > 1:
        sides = _orient(A, X)
        steps, length, pairs = sides.sizes
        constants = _constants(A, sides)
        bands = triton.cdiv(length - 1, constants['BLOCK_L'])
        left = A.new_empty(bands, steps, pairs)  # of each band, its h furthest left
        upper = A.new_empty(length, pairs)  # v of the second row
        with torch.cuda.device_of(A):
            _sweep_back[(triton.cdiv(pairs, PAIRS),)](
                sides.rates,
                _reals(X),
                _reals(G),
                _reals(left),
                _reals(upper),
                _reals(inside),
                *_strides(X, sides),
                *_strides(G, sides),
                *sides.sizes,
                **constants,
            )
        # what the sources on the axes get, and their part of the sums
        left, upper = left[-1, 1:], upper[1:]
        if sides.transposed:
            left, upper, inside = upper, left, inside.flip(0)
        half = A.conj_physical() / 2
        row, column = row + half[2] * upper, column + half[1] * left
        inside[1] += (X[1:, 0, 1].conj_physical() * left).sum(0)
        inside[2] += (X[0, 1:, 0].conj_physical() * upper).sum(0)
    grad_A, grad_B = axis_states_adjoint(A, B, row, column)
    return (grad_A + inside / 2).to(A.dtype), (grad_B + G[0, 0]).to(B.dtype)


class _Sides(NamedTuple):
    """Which axis is scanned, the longer one.

    rates: A / 2 as reals, of the scanned state from itself and from the other one, then
    of the other state from the scanned one and from itself.  sizes: steps, length, P.
    """

    transposed: bool
    rates: Tensor
    sizes: tuple[int, int, int]


def _orient(A: Tensor, X: Tensor) -> _Sides:
    height, width = X.shape[:2]
    transposed = height > width
    half = A / 2
    rates = _reals(half.flip(0) if transposed else half).contiguous()
    return _Sides(
        transposed, rates, (min(height, width), max(height, width), A.shape[1])
    )


def _reals(tensor: Tensor) -> Tensor:
    """A view with a last axis of real and imaginary parts, if complex."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _strides(X: Tensor, sides: _Sides) -> tuple[int, int, int, int]:
    """In real numbers: from step to step, along, and to the scanned and other state."""
    down, right, second, _ = (s * (1 + X.is_complex()) for s in X.stride())
    if sides.transposed:
        return right, down, second, 0
    return down, right, 0, second


def _constants(A: Tensor, sides: _Sides) -> dict:
    """What the kernels are compiled for."""
    length = sides.sizes[1]
    return dict(
        COMPLEX=A.is_complex(),
        BLOCK_L=max(2, min(TILE // PAIRS, triton.next_power_of_2(length - 1))),
        BLOCK_P=PAIRS,
        num_warps=8,
    )


@triton.jit
def _times(x, xi, y, yi, COMPLEX: tl.constexpr):
    """x y, real and imaginary part."""
    if COMPLEX:
        return x * y - xi * yi, x * yi + xi * y
    else:
        return x * y, x * y


@triton.jit
def _load(at, mask, COMPLEX: tl.constexpr):
    """Real and imaginary part of numbers, zero outside the mask."""
    x = tl.load(at, mask=mask, other=0.0)
    if COMPLEX:
        return x, tl.load(at + 1, mask=mask, other=0.0)
    else:
        return x, x


@triton.jit
def _store(at, x, xi, mask, COMPLEX: tl.constexpr):
    tl.store(at, x, mask=mask)
    if COMPLEX:
        tl.store(at + 1, xi, mask=mask)


@triton.jit
def _compose(a, b, before_a, before_b, next_a, next_b, last_a, last_b):
    """First x -> a x + b, then the next map; and the same without the very last."""
    return next_a * a, next_a * b + next_b, last_a * a, last_a * b + last_b


@triton.jit
def _compose_complex(
    a,
    ai,
    b,
    bi,
    before_a,
    before_ai,
    before_b,
    before_bi,
    next_a,
    next_ai,
    next_b,
    next_bi,
    last_a,
    last_ai,
    last_b,
    last_bi,
):
    """`_compose` of complex numbers."""
    whole_a, whole_ai = _times(next_a, next_ai, a, ai, True)
    whole_b, whole_bi = _times(next_a, next_ai, b, bi, True)
    part_a, part_ai = _times(last_a, last_ai, a, ai, True)
    part_b, part_bi = _times(last_a, last_ai, b, bi, True)
    return (
        whole_a,
        whole_ai,
        whole_b + next_b,
        whole_bi + next_bi,
        part_a,
        part_ai,
        part_b + last_b,
        part_bi + last_bi,
    )


@triton.jit
def _before(rate, rate_i, x, xi, first, first_i, COMPLEX: tl.constexpr):
    """y[0] = first, y[j] = x[j - 1] + rate y[j - 1]; x: (L, P), rate, first: (1, P)."""
    a = rate + tl.zeros_like(x)
    one = tl.full(x.shape, 1.0, dtype=x.dtype)
    zero = tl.zeros_like(x)
    if COMPLEX:
        ai = rate_i + zero
        _, _, _, _, power, power_i, y, yi = tl.associative_scan(
            (a, ai, x, xi, one, zero, zero, zero), 0, _compose_complex
        )
        more, more_i = _times(power, power_i, first, first_i, True)
        return y + more, yi + more_i
    else:
        _, _, power, y = tl.associative_scan((a, x, one, zero), 0, _compose)
        y += power * first
        return y, y


@triton.jit
def _sweep(
    rates,
    X,
    X_step,
    X_along,
    X_h,
    X_v,
    steps,
    length,
    pairs,
    COMPLEX: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Fill X but its axes.  h is the scanned state and v the other one."""
    NUMBER: tl.constexpr = 2 if COMPLEX else 1
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    pair = (p < pairs)[None, :]
    at = (p * NUMBER)[None, :]
    a, ai = _load(rates + at, pair, COMPLEX)
    b, bi = _load(rates + pairs * NUMBER + at, pair, COMPLEX)
    c, ci = _load(rates + 2 * pairs * NUMBER + at, pair, COMPLEX)
    d, di = _load(rates + 3 * pairs * NUMBER + at, pair, COMPLEX)
    X += at
    for start in range(1, length, BLOCK_L):
        j = start + tl.arange(0, BLOCK_L)
        here = (j < length)[:, None] & pair
        cell = X + (j.to(tl.int64) * X_along)[:, None]
        edge = X + (start - 1) * X_along.to(tl.int64)
        h, hi = _load(cell + X_h, here, COMPLEX)
        v = tl.zeros_like(h)
        vi = tl.zeros_like(h)
        for _ in range(1, steps):
            cell += X_step
            edge += X_step
            from_h, from_hi = _times(c, ci, h, hi, COMPLEX)
            from_v, from_vi = _times(d, di, v, vi, COMPLEX)
            v = from_h + from_v
            vi = from_hi + from_vi
            # what enters the band from its left
            old, old_i = _load(edge + X_h, pair, COMPLEX)
            from_h, from_hi = _times(a, ai, old, old_i, COMPLEX)
            old, old_i = _load(edge + X_v, pair, COMPLEX)
            from_v, from_vi = _times(b, bi, old, old_i, COMPLEX)
            inner, inner_i = _times(b, bi, v, vi, COMPLEX)
            h, hi = _before(
                a, ai, inner, inner_i, from_h + from_v, from_hi + from_vi, COMPLEX
            )
            _store(cell + X_h, h, hi, here, COMPLEX)
            _store(cell + X_v, v, vi, here, COMPLEX)
        tl.debug_barrier()  # the next band reads the last column of this one


@triton.jit
def _sweep_back(
    rates,
    X,
    G,
    left,
    upper,
    sums,
    X_step,
    X_along,
    X_h,
    X_v,
    G_step,
    G_along,
    G_h,
    G_v,
    steps,
    length,
    pairs,
    COMPLEX: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """left: (bands, steps, P), bands from the last.  upper: (length, P).  sums: (4, P),
    for the rates, of conj(state) * gradient of its target, both inside the map."""
    NUMBER: tl.constexpr = 2 if COMPLEX else 1
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    pair = (p < pairs)[None, :]
    at = (p * NUMBER)[None, :]
    a, ai = _load(rates + at, pair, COMPLEX)
    b, bi = _load(rates + pairs * NUMBER + at, pair, COMPLEX)
    c, ci = _load(rates + 2 * pairs * NUMBER + at, pair, COMPLEX)
    d, di = _load(rates + 3 * pairs * NUMBER + at, pair, COMPLEX)
    ai, bi, ci, di = -ai, -bi, -ci, -di  # the adjoint takes conjugates
    X += at
    G += at
    sum_a = tl.zeros([BLOCK_L, BLOCK_P], dtype=a.dtype)
    sum_ai = tl.zeros_like(sum_a)
    sum_b = tl.zeros_like(sum_a)
    sum_bi = tl.zeros_like(sum_a)
    sum_c = tl.zeros_like(sum_a)
    sum_ci = tl.zeros_like(sum_a)
    sum_d = tl.zeros_like(sum_a)
    sum_di = tl.zeros_like(sum_a)
    for start in range(0, length - 1, BLOCK_L):
        j = length - 1 - start - tl.arange(0, BLOCK_L)
        here = (j > 0)[:, None] & pair
        is_last = (j == tl.maximum(length - start - BLOCK_L, 1))[:, None] & pair
        band = start // BLOCK_L
        entered = (p < tl.where(start > 0, pairs, 0))[None, :]
        cell_X = X + (j.to(tl.int64) * X_along)[:, None] + steps.to(tl.int64) * X_step
        cell_G = G + (j.to(tl.int64) * G_along)[:, None] + steps.to(tl.int64) * G_step
        v = tl.zeros([BLOCK_L, BLOCK_P], dtype=a.dtype)  # gradient of v one row below
        vi = tl.zeros_like(v)
        for back in range(1, steps):
            step = steps - back
            cell_X -= X_step
            cell_G -= G_step
            edge = left + (band * steps + step) * pairs * NUMBER + at
            right, right_i = _load(edge - steps * pairs * NUMBER, entered, COMPLEX)
            h, hi = _load(cell_G + G_h, here, COMPLEX)
            from_v, from_vi = _times(c, ci, v, vi, COMPLEX)
            h += from_v
            hi += from_vi
            beside, beside_i = _before(a, ai, h, hi, right, right_i, COMPLEX)

            x, xi = _load(cell_X + X_h, here, COMPLEX)
            more, more_i = _times(x, -xi, beside, beside_i, COMPLEX)
            sum_a += more
            sum_ai += more_i
            more, more_i = _times(x, -xi, v, vi, COMPLEX)
            sum_c += more
            sum_ci += more_i
            x, xi = _load(cell_X + X_v, here, COMPLEX)
            more, more_i = _times(x, -xi, beside, beside_i, COMPLEX)
            sum_b += more
            sum_bi += more_i
            more, more_i = _times(x, -xi, v, vi, COMPLEX)
            sum_d += more
            sum_di += more_i

            from_h, from_hi = _times(a, ai, beside, beside_i, COMPLEX)
            edge += tl.zeros([BLOCK_L, 1], dtype=tl.int32)
            _store(edge, h + from_h, hi + from_hi, is_last, COMPLEX)
            from_h, from_hi = _times(b, bi, beside, beside_i, COMPLEX)
            from_v, from_vi = _times(d, di, v, vi, COMPLEX)
            v, vi = _load(cell_G + G_v, here, COMPLEX)
            v += from_h + from_v
            vi += from_hi + from_vi
        _store(upper + (j * pairs * NUMBER)[:, None] + at, v, vi, here, COMPLEX)
        tl.debug_barrier()  # the next band reads the first column of this one
    sums += at
    _store_sum(sums, sum_a, sum_ai, pair, COMPLEX)
    _store_sum(sums + pairs * NUMBER, sum_b, sum_bi, pair, COMPLEX)
    _store_sum(sums + 2 * pairs * NUMBER, sum_c, sum_ci, pair, COMPLEX)
    _store_sum(sums + 3 * pairs * NUMBER, sum_d, sum_di, pair, COMPLEX)


@triton.jit
def _store_sum(at, x, xi, mask, COMPLEX: tl.constexpr):
    """The sums over columns, (L, P) -> (1, P)."""
    _store(
        at,
        tl.sum(x, axis=0)[None, :],
        tl.sum(xi, axis=0)[None, :],
        mask,
        COMPLEX,
    )
