"""Multiply-accumulates of the operators, counted where somebody asks for it.

While a counter is set, an operator is counted and not computed: its result is zeros.
The counter is a context variable, so that other threads compute as ever.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

_COUNTER: ContextVar[Counter[str] | None] = ContextVar('mmssm_macs', default=None)


class Cost(NamedTuple):
    """What an op costs on some inputs, and zeros in place of its result.

    Both take what the op's implementations take.
    """

    macs: Callable[..., int]
    zeros: Callable[..., Tensor] = lambda first, *rest: torch.zeros_like(first)

    def count(self, op: str, *inputs: Any) -> Tensor:
        """Add to the counter that is set; return the zeros."""
        add(op, self.macs(*inputs))
        return self.zeros(*inputs)


def is_counting() -> bool:
    """Whether operators are counted here rather than computed."""
    # compiled code is made for computing, and its tracer knows no context variables
    return not torch.compiler.is_compiling() and _COUNTER.get() is not None


def add(op: str, macs: int) -> None:
    """Add to the counter that is set."""
    _COUNTER.get()[op] += macs


@contextmanager
def counting_ops() -> Iterator[Counter[str]]:
    """Count the operators that run in the block, by name, in the counter it gives."""
    ops: Counter[str] = Counter()
    outer = _COUNTER.get()
    token = _COUNTER.set(ops)
    try:
        yield ops
    finally:
        _COUNTER.reset(token)
        if outer is not None:
            outer.update(ops)
