"""The two tolerances of the suite.

In double: equal to 1e-10 of the largest value, or to the rounding of a reference that
was stored in float32.  In lower precision: at most twice the error of the naive twin in
that precision, both measured against double.
"""

import torch
from torch import Tensor

DOUBLE = 1e-10


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """max |actual - exact| over max |exact|, in double."""
    assert actual.shape == exact.shape, f'{actual.shape} != {exact.shape}'
    actual, exact = (_double(t.detach()) for t in (actual, exact))
    scale = exact.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return ((actual - exact).abs().max() / scale).item()


def assert_equal_in_double(actual: Tensor, exact: Tensor, name: str = '') -> None:
    """actual computed in float64 or complex128; exact too, perhaps stored shorter."""
    assert actual.dtype in (torch.float64, torch.complex128), actual.dtype
    stored = torch.finfo(exact.dtype).eps if exact.dtype == torch.float32 else 0
    allowed = max(DOUBLE, stored)
    error = relative_error(actual, exact)
    assert error <= allowed, f'{name}: relative error {error:.2e} > {allowed:.0e}'


def assert_as_exact_as_naive(
    fast: Tensor, naive: Tensor, exact: Tensor, name: str = ''
) -> None:
    """fast and naive in one lower precision, exact in double."""
    allowed = 2 * max(relative_error(naive, exact), torch.finfo(naive.dtype).eps)
    error = relative_error(fast, exact)
    assert error <= allowed, f'{name}: error {error:.2e} > {allowed:.2e}'


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
