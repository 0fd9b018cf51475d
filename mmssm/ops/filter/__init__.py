"""Two-dimensional state-space filter, exact on maps of any size."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mmssm.ops import dispatch, trial
from mmssm.ops.filter.naive import FLIPS, ssm2d_kernel_naive, ssm2d_naive
from mmssm.ops.filter.operator import (
    FILTER_COST,
    KERNEL_COST,
    Prepared,
    align,
    filter_fused,
    kernel_fused,
    prepare,
)
from mmssm.ops.filter.plan import Plan
from mmssm.ops.filter.truncation import supports
from mmssm.ops.precision import no_autocast, precision

__all__ = ['Prepared', 'ssm2d', 'ssm2d_kernel', 'ssm2d_prepare', 'ssm2d_support']


def _small(randn: Callable[..., Tensor]) -> tuple:
    """Arguments for a first try: complex, and wider than the kernels go at once."""
    A, B = torch.polar(torch.sigmoid(randn(6, 4, 16)), randn(6, 4, 16)).split([4, 2])
    C = torch.complex(randn(2, 2, 64, 16), randn(2, 2, 64, 16))
    return A, B, C, 24, 600


def _real_and_complex(
    A: Tensor, B: Tensor, C: Tensor, height: int, width: int, *, states: str
) -> Tensor:
    real = kernel_fused(A.real, B.real, C.real, height, width, states=states)
    return torch.cat([real, kernel_fused(A, B, C, height, width, states=states)])


_KERNELS = trial.kernels(
    'ssm2d',
    partial(_real_and_complex, states='triton'),
    partial(_real_and_complex, states='tiled'),
    _small,
)
for _op, _fused, _naive, _cost in (
    ('ssm2d', filter_fused, ssm2d_naive, FILTER_COST),
    ('ssm2d_kernel', kernel_fused, ssm2d_kernel_naive, KERNEL_COST),
):
    dispatch.register(
        _op,
        [
            _KERNELS._replace(run=trial.named(_op, partial(_fused, states='triton'))),
            dispatch.Implementation('wavefront', partial(_fused, states='wavefront')),
            dispatch.Implementation('tiled', partial(_fused, states='tiled')),
            dispatch.Implementation('naive', _naive),
        ],
        _cost,
    )


def ssm2d(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int] | None = None,
    tolerance: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Filter maps with the impulse responses of two-dimensional state-space models.

        h[i, j] = f(A1 h, A2 v)[i, j - 1] + B1 u[i, j]
        v[i, j] = f(A3 h, A4 v)[i - 1, j] + B2 u[i, j]
        K[i, j] = s[i, j] N^(-1/2) Re sum_n (C1 h + C2 v)[i, j],  u a unit impulse
        y = sum_d flip_d(K_d * flip_d(x)) + skip x
    (2-D SSM, arXiv 2306.06635, with the normalisation of the released code.)  f is the
    mean of its arguments where both can differ from zero and their sum elsewhere, on
    the axes through the impulse; s is 2 on these axes but for s[0, 0] = 1.  The d are
    corners: with 4 directions the impulse goes down and right, up and right, down and
    left, up and left; with 2 the first and the last of these.  Channel e in direction d
    belongs to SSM (d * channels + e) mod S.

    x: (B, channels, H, W), any H and W from 1, any memory format.
    A: (4, S, N), of modulus at most 1.  B: (2, S, N).  C: (2, directions, channels, N).
    All three real or all complex.  skip: (channels,), real.
    kernel_size: leave out taps from this distance on; a number or (height, width).
    tolerance: leave out distant taps as long as no output changes by more than
    tolerance * max |x|, decided for groups of SSMs; 0 leaves out none.  1e-6 is about
    the rounding of float32 and meant for training, 1e-4 to 1e-3 for inference.  Looking
    at the parameters for that makes a GPU wait.  Maps of up to 32 x 32 cells keep all.
    backend: 'triton', the default on a GPU that can run it; 'wavefront', the default on
    a CPU; 'tiled', the default elsewhere; 'naive', the definition, which ignores the
    tolerance.
    Returns (B, channels, H, W) in float64 if any input is of that precision and in
    float32 otherwise, autocast or not.  Only the inputs are saved for the adjoint.

    Raises ValueError for shapes that do not fit, for an unknown backend, and, on the
    CPU, for A, B or C that are not finite.
    """
    _check(A, B, C, tolerance)
    _check_maps(x, C, skip)
    run = dispatch.choose('ssm2d', backend or default_backend(A), x, A, B, C, skip)
    with no_autocast(x):
        A, B, C, skip = _wide(x, A, B, C, skip)
        return run(x, A, B, C, skip, *_crop(kernel_size, x.shape[2:]), tolerance)


def ssm2d_prepare(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int] | None = None,
    tolerance: float = 0.0,
) -> Prepared:
    """`ssm2d` for many maps of one shape, in inference: a function of x.

    Arguments as in `ssm2d`; of x the shape and the precision count.  The function does
    what `ssm2d` does, bit for bit, without gradients.  It holds about 4 numbers for
    each of channels * H * W, and raises ValueError for maps of another shape.
    """
    _check(A, B, C, tolerance)
    _check_maps(x, C, skip)
    with torch.no_grad(), no_autocast(A):
        A, B, C, skip = _wide(x, A, B, C, skip)
        plan = Plan(_crop(kernel_size, x.shape[2:]), tolerance, default_backend(A))
        return prepare(x.shape, A, B, C, skip, plan)


def ssm2d_kernel(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    size: tuple[int, int],
    *,
    backend: str | None = None,
) -> Tensor:
    """The causal kernels K of `ssm2d`, before they are flipped.

    size: (height, width), any from 1.  Other arguments as in `ssm2d`.
    Returns (directions, channels, height, width), real.
    """
    _check(A, B, C, 0.0)
    if min(size) < 1:
        raise ValueError(f'size is {tuple(size)}; expected a height and width from 1')
    run = dispatch.choose('ssm2d_kernel', backend or default_backend(A), A, B, C)
    with no_autocast(A):
        A, B, C, _ = _wide(A, B, C, None)
        return run(A, B, C, *size)


def ssm2d_support(
    A: Tensor, B: Tensor, C: Tensor, size: tuple[int, int], tolerance: float
) -> list[tuple[int, int]]:
    """Kernel (height, width) of each SSM that `tolerance` asks for on maps of `size`.

    A rigorous bound: smaller kernels may do.  Arguments as in `ssm2d`.
    """
    _check(A, B, C, tolerance)
    A, B, C, _ = align(A, B, C, None)
    return supports(A, B, C, size, tolerance)


def default_backend(tensor: Tensor) -> str:
    """'triton' where it is preferred, else 'wavefront' on a CPU, else 'tiled'.

    'tiled' has a tenth of the launches of 'wavefront', and 'triton' one each way.
    """
    suits = _KERNELS.suits(tensor) and _KERNELS.requires() is None
    if suits and _KERNELS.why_not(tensor) is None:
        return 'triton'
    return 'wavefront' if tensor.device.type == 'cpu' else 'tiled'


def _crop(
    kernel_size: int | tuple[int, int] | None, size: tuple[int, int]
) -> tuple[int, int]:
    """Kernel size, at most that of the map."""
    if kernel_size is None:
        return tuple(size)
    if isinstance(kernel_size, int):
        kernel_size = (kernel_size, kernel_size)
    if min(kernel_size) < 1:
        raise ValueError(
            f'kernel_size is {kernel_size}; expected None or numbers from 1'
        )
    height, width = (min(k, m) for k, m in zip(kernel_size, size, strict=True))
    return height, width


def _wide(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """A, B, C and skip in the precision of the result."""
    real = precision(*(t for t in tensors if t is not None))
    pair = torch.complex128 if real == torch.float64 else torch.complex64
    return tuple(
        None if t is None else t.to(pair if t.is_complex() else real)
        for t in tensors[-4:]
    )


def _check(A: Tensor, B: Tensor, C: Tensor, tolerance: float) -> None:
    if A.dim() != 3 or A.shape[0] != 4 or 0 in A.shape:
        raise ValueError(f'A has shape {tuple(A.shape)}; expected (4, S, N)')
    _, ssms, states = A.shape
    if B.shape != (2, ssms, states):
        raise ValueError(
            f'B has shape {tuple(B.shape)}; expected (2, S={ssms}, N={states})'
        )
    if C.dim() != 4 or C.shape[0] != 2 or C.shape[3] != states or 0 in C.shape:
        raise ValueError(
            f'C has shape {tuple(C.shape)}; expected (2, directions, channels, '
            f'N={states})'
        )
    if int(C.shape[1]) not in FLIPS:  # under torch.jit.trace a size is a tensor
        raise ValueError(
            f'C has {C.shape[1]} directions in its shape {tuple(C.shape)}; expected 2 '
            'or 4'
        )
    if len({t.is_complex() for t in (A, B, C)}) > 1:
        raise ValueError(
            f'A, B, C are {A.dtype}, {B.dtype}, {C.dtype}; expected all of them real '
            'or all of them complex'
        )
    if not tolerance >= 0:
        raise ValueError(f'tolerance is {tolerance}; expected a number from 0')


def _check_maps(x: Tensor, C: Tensor, skip: Tensor | None) -> None:
    channels = C.shape[2]
    if x.dim() != 4 or 0 in x.shape or x.shape[1] != channels:
        raise ValueError(
            f'x has shape {tuple(x.shape)}; expected (B, {channels=}, H, W) with no '
            'zero'
        )
    if skip is not None and skip.shape != (channels,):
        raise ValueError(f'skip has shape {tuple(skip.shape)}; expected ({channels=},)')
