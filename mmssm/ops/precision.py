"""Float32 islands: recurrences, kernels and FFTs do not follow autocast."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

DOUBLE = (torch.float64, torch.complex128)


def precision(*tensors: Tensor) -> torch.dtype:
    """float64 if any of the tensors, or its real part, is, float32 otherwise."""
    double = any(t.dtype in DOUBLE for t in tensors)
    return torch.float64 if double else torch.float32


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one dtype, that of `precision`."""
    dtype = precision(*tensors)
    # recorded graphs would hold conversions that change nothing
    return tuple(t if t.dtype == dtype else t.to(dtype) for t in tensors)


def no_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context that turns autocast off on the tensor's device."""
    kind = tensor.device.type
    if tensor.is_meta or not torch.is_autocast_enabled(kind):
        return nullcontext()
    if torch.compiler.is_compiling():
        return torch.autocast(kind, enabled=False)
    return _Off(kind)


class _Off:
    """Autocast off; torch's own context takes ten times as long to enter and leave."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __enter__(self) -> None:
        torch.set_autocast_enabled(self.kind, False)

    def __exit__(self, *error: object) -> None:
        torch.set_autocast_enabled(self.kind, True)


def widened(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`run`, its leading tensors made `wide`; what follows them is passed on."""

    @wraps(run)
    def with_wide(*inputs: Any) -> Tensor:
        count = sum(isinstance(value, Tensor) for value in inputs)
        return run(*wide(*inputs[:count]), *inputs[count:])

    return with_wide
