"""States by a single Triton kernel each way.

Inside the map h follows a first-order recurrence along a row, which a scan solves, and
v follows from the row above at the same column.  A program owns one pair and walks down
the rows of a band of columns with the states of one row in registers; what enters a
band from the left is read from memory, where the band before has left it.  The scan
composes affine maps and yields each without its last factor too, so that no value has
to move to a neighbouring column.

The adjoint walks from the last row and the last band and sums the gradients of the
parameters in registers: a pair belongs to one program, so that there are no atomics and
the same bits every time.

Real and imaginary parts of the states are maps of their own, so that a row is read and
written along memory and the kernels' matrix product takes the states as they lie.  For
real states the imaginary parts stand for nothing and are never read.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmssm.ops.division import covering
from mmssm.ops.filter.states import axis_states, axis_states_adjoint

BAND = 512  # columns at a time: 4 for each thread of 4 warps
STAGES = 3  # rows on their way while one is worked on
SIZES = ['pairs', 'height', 'width']  # one binary does for all


def states_triton(A: Tensor, B: Tensor, height: int, width: int) -> Tensor:
    """`states_wavefront` as planes: (4, P), (2, P) -> (2, P, parts, height, width).

    parts: real and imaginary if complex, else 1.
    """
    row, column = axis_states(A, B, height, width)
    first = _parts(B)
    X = first.new_empty(*first.shape, height, width)
    X[0, ..., 1:, 0] = 0
    X[1, ..., 0, :] = 0
    X[..., 0, 0] = first
    X[0, ..., 0, 1:] = _parts(row).movedim(0, -1)
    X[1, ..., 1:, 0] = _parts(column).movedim(0, -1)
    if height > 1 and width > 1:
        rates = _parts(A / 2).contiguous()
        with torch.cuda.device_of(A):
            _sweep[(A.shape[1],)](rates, X, *_sizes(X), **_constants(A))
    return X


def states_triton_adjoint(
    A: Tensor, B: Tensor, X: Tensor, G: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B from G, that of X = states_triton(A, B, ...), contiguous."""
    row, column = _numbers(A, G[0, ..., 0, 1:]), _numbers(A, G[1, ..., 1:, 0])
    inside = torch.zeros_like(A)
    pairs, height, width = _sizes(X)
    if height > 1 and width > 1:
        constants = _constants(A)
        bands = covering(width - 1, constants['BAND_L'])
        parts = X.shape[2]
        left = X.new_empty(bands, pairs, parts, height)  # of each band, its first h
        upper = X.new_empty(pairs, parts, width)  # v of the second row
        sums = X.new_empty(4, pairs, parts)
        with torch.cuda.device_of(A):
            _sweep_back[(pairs,)](
                _parts(A / 2).contiguous(),
                X,
                G,
                left,
                upper,
                sums,
                *_sizes(X),
                STAGES=STAGES,
                **constants,
            )
        # what the sources on the axes get, and their part of the sums
        left, upper = _numbers(A, left[-1, ..., 1:]), _numbers(A, upper[..., 1:])
        inside = torch.view_as_complex(sums) if A.is_complex() else sums[..., 0]
        half = A.conj_physical() / 2
        row, column = row + half[2] * upper, column + half[1] * left
        first, above = _numbers(A, X[1, ..., 1:, 0]), _numbers(A, X[0, ..., 0, 1:])
        inside[1] += (first.conj_physical() * left).sum(0)
        inside[2] += (above.conj_physical() * upper).sum(0)
    grad_A, grad_B = axis_states_adjoint(A, B, row, column)
    corner = torch.stack([_numbers(A, g[..., 0, :1])[0] for g in G])
    return (grad_A + inside / 2).to(A.dtype), (grad_B + corner).to(B.dtype)


def _sizes(X: Tensor) -> tuple[int, int, int]:
    return X.shape[1], X.shape[3], X.shape[4]


def _parts(tensor: Tensor) -> Tensor:
    """(..., P) -> (..., P, parts), a view."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor[..., None]


def _numbers(A: Tensor, parts: Tensor) -> Tensor:
    """(P, parts, length) -> (length, P), complex if A is."""
    real, *imaginary = parts.movedim(-1, 0).unbind(-1)
    return torch.complex(real, *imaginary) if A.is_complex() else real


def _constants(A: Tensor) -> dict:
    """What the kernels are compiled for."""
    return dict(COMPLEX=A.is_complex(), BAND_L=BAND, num_warps=4)


@triton.jit
def _times(x, xi, y, yi, COMPLEX: tl.constexpr):
    """x y, real and imaginary part."""
    if COMPLEX:
        return x * y - xi * yi, x * yi + xi * y
    else:
        return x * y, x * y


@triton.jit
def _load(at, plane, mask, COMPLEX: tl.constexpr):
    """Real and imaginary part, `plane` further, zero outside the mask."""
    x = tl.load(at, mask=mask, other=0.0)
    if COMPLEX:
        return x, tl.load(at + plane, mask=mask, other=0.0)
    else:
        return x, x


@triton.jit
def _store(at, plane, x, xi, mask, COMPLEX: tl.constexpr):
    tl.store(at, x, mask=mask)
    if COMPLEX:
        tl.store(at + plane, xi, mask=mask)


@triton.jit
def _rates(rates, pairs, COMPLEX: tl.constexpr):
    """The program's A / 2: of h from h and v, of v from h and v."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    at = rates + tl.program_id(0) * PARTS
    step = pairs * PARTS
    a, ai = _load(at, 1, True, COMPLEX)
    b, bi = _load(at + step, 1, True, COMPLEX)
    c, ci = _load(at + 2 * step, 1, True, COMPLEX)
    d, di = _load(at + 3 * step, 1, True, COMPLEX)
    return a, ai, b, bi, c, ci, d, di


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
    """y[0] = first, y[j] = x[j - 1] + rate y[j - 1]; x: (L,)."""
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


@triton.jit(do_not_specialize=SIZES)
def _sweep(rates, X, pairs, height, width, COMPLEX: tl.constexpr, BAND_L: tl.constexpr):
    """Fill X but its axes."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    a, ai, b, bi, c, ci, d, di = _rates(rates, pairs, COMPLEX)
    plane = height.to(tl.int64) * width
    H = X + tl.program_id(0) * PARTS * plane
    V = H + pairs * PARTS * plane
    for start in range(1, width, BAND_L):
        j = start + tl.arange(0, BAND_L)
        here = j < width
        h, hi = _load(H + j, plane, here, COMPLEX)
        v = tl.zeros_like(h)
        vi = tl.zeros_like(h)
        # what enters the band from its left, read a row ahead
        edge = start - 1 + width
        left_h, left_hi = _load(H + edge, plane, True, COMPLEX)
        left_v, left_vi = _load(V + edge, plane, True, COMPLEX)
        for i in range(1, height):
            from_h, from_hi = _times(a, ai, left_h, left_hi, COMPLEX)
            from_v, from_vi = _times(b, bi, left_v, left_vi, COMPLEX)
            first = from_h + from_v
            first_i = from_hi + from_vi
            edge += width
            more = i < height - 1
            left_h, left_hi = _load(H + edge, plane, more, COMPLEX)
            left_v, left_vi = _load(V + edge, plane, more, COMPLEX)
            from_h, from_hi = _times(c, ci, h, hi, COMPLEX)
            from_v, from_vi = _times(d, di, v, vi, COMPLEX)
            v = from_h + from_v
            vi = from_hi + from_vi
            inner, inner_i = _times(b, bi, v, vi, COMPLEX)
            h, hi = _before(a, ai, inner, inner_i, first, first_i, COMPLEX)
            _store(H + i * width + j, plane, h, hi, here, COMPLEX)
            _store(V + i * width + j, plane, v, vi, here, COMPLEX)
        tl.debug_barrier()  # the next band reads the last column of this one


@triton.jit(do_not_specialize=SIZES)
def _sweep_back(
    rates,
    X,
    G,
    left,
    upper,
    sums,
    pairs,
    height,
    width,
    COMPLEX: tl.constexpr,
    BAND_L: tl.constexpr,
    STAGES: tl.constexpr,
):
    """left: (bands, P, parts, height), bands from the last.  upper: (P, parts, width).
    sums: (4, P, parts), of conj(state) * gradient of its target, both inside the map.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    p = tl.program_id(0)
    a, ai, b, bi, c, ci, d, di = _rates(rates, pairs, COMPLEX)
    ai, bi, ci, di = -ai, -bi, -ci, -di  # the adjoint takes conjugates
    plane = height.to(tl.int64) * width
    own, other = p * PARTS * plane, pairs * PARTS * plane
    left += p * PARTS * height
    upper += p * PARTS * width
    sum_a = tl.zeros([BAND_L], dtype=a.dtype)
    sum_ai = tl.zeros_like(sum_a)
    sum_b = tl.zeros_like(sum_a)
    sum_bi = tl.zeros_like(sum_a)
    sum_c = tl.zeros_like(sum_a)
    sum_ci = tl.zeros_like(sum_a)
    sum_d = tl.zeros_like(sum_a)
    sum_di = tl.zeros_like(sum_a)
    for start in range(0, width - 1, BAND_L):
        j = width - 1 - start - tl.arange(0, BAND_L)
        here = j > 0
        is_first = j == tl.maximum(width - start - BAND_L, 1)
        v = tl.zeros([BAND_L], dtype=a.dtype)  # gradient of v one row below
        vi = tl.zeros_like(v)
        for back in tl.range(1, height, num_stages=STAGES):
            i = height - back
            at = own + i * width + j
            right, right_i = _load(
                left - pairs * PARTS * height + i, height, start > 0, COMPLEX
            )
            h, hi = _load(G + at, plane, here, COMPLEX)
            from_v, from_vi = _times(c, ci, v, vi, COMPLEX)
            h += from_v
            hi += from_vi
            beside, beside_i = _before(a, ai, h, hi, right, right_i, COMPLEX)

            x, xi = _load(X + at, plane, here, COMPLEX)
            more, more_i = _times(x, -xi, beside, beside_i, COMPLEX)
            sum_a += more
            sum_ai += more_i
            more, more_i = _times(x, -xi, v, vi, COMPLEX)
            sum_c += more
            sum_ci += more_i
            x, xi = _load(X + other + at, plane, here, COMPLEX)
            more, more_i = _times(x, -xi, beside, beside_i, COMPLEX)
            sum_b += more
            sum_bi += more_i
            more, more_i = _times(x, -xi, v, vi, COMPLEX)
            sum_d += more
            sum_di += more_i

            from_h, from_hi = _times(a, ai, beside, beside_i, COMPLEX)
            edge = left + i + tl.zeros([BAND_L], dtype=tl.int32)
            _store(edge, height, h + from_h, hi + from_hi, is_first, COMPLEX)
            from_h, from_hi = _times(b, bi, beside, beside_i, COMPLEX)
            from_v, from_vi = _times(d, di, v, vi, COMPLEX)
            v, vi = _load(G + other + at, plane, here, COMPLEX)
            v += from_h + from_v
            vi += from_hi + from_vi
        _store(upper + j, width, v, vi, here, COMPLEX)
        left += pairs * PARTS * height
        tl.debug_barrier()  # the next band reads the first column of this one
    sums += p * PARTS
    _store(sums, 1, tl.sum(sum_a), tl.sum(sum_ai), True, COMPLEX)
    sums += pairs * PARTS
    _store(sums, 1, tl.sum(sum_b), tl.sum(sum_bi), True, COMPLEX)
    sums += pairs * PARTS
    _store(sums, 1, tl.sum(sum_c), tl.sum(sum_ci), True, COMPLEX)
    sums += pairs * PARTS
    _store(sums, 1, tl.sum(sum_d), tl.sum(sum_di), True, COMPLEX)
