"""Weights of products in autocast's dtype, those of a whole network at once.

Autocast converts each weight when its product comes: one launch of a kernel for each,
and one more in a backward pass that multiplies by it again.  A network that has run
once knows which weights are asked for, and converts them together when it begins.

A weight that has been replaced or changed since then is converted by itself as ever.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from mmssm.ops.division import covering
from mmssm.ops.operator import is_recorded, is_transformed

ALIGNED = 16  # numbers between the beginnings of two weights divide by this


class _Kept(NamedTuple):
    address: int
    version: int
    lower: Tensor


class _Pass(NamedTuple):
    dtype: torch.dtype
    asked: dict[int, Tensor]
    kept: dict[int, _Kept]


_PASS: ContextVar[_Pass | None] = ContextVar('mmssm_lowered', default=None)


@contextmanager
def lowered_weights(
    expected: Sequence[Tensor], like: Tensor
) -> Iterator[dict[int, Tensor]]:
    """Within the block, under autocast, `lowered` has the expected weights at hand.

    Gives what `lowered` is asked for within the block, by id: to be expected in the
    next pass.  like: on the device whose autocast counts.  While a graph is recorded,
    and without autocast, nothing is converted and nothing noted.
    """
    kind, asked = like.device.type, {}
    outside = is_recorded((like,)) or is_transformed()
    if outside or not torch.is_autocast_enabled(kind):
        yield asked
        return
    dtype = torch.get_autocast_dtype(kind)
    chosen = [w for w in expected if _is_fit(w) and w.device == like.device]
    token = _PASS.set(_Pass(dtype, asked, _converted(chosen, dtype)))
    try:
        yield asked
    finally:
        _PASS.reset(token)


def lowered(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight.to(dtype)`, without a gradient, from what is at hand where it can be."""
    present = _PASS.get()
    if present is not None and present.dtype == dtype and type(weight) is Parameter:
        present.asked[id(weight)] = weight
        kept = present.kept.get(id(weight))
        # another tensor may have the id, and the same tensor other contents
        if (
            kept is not None
            and kept.address == weight.data_ptr()
            and kept.version == weight._version
            and kept.lower.shape == weight.shape
        ):
            return kept.lower
    return weight.detach().to(dtype)


def _is_fit(weight: Tensor) -> bool:
    return (
        type(weight) is Parameter
        and weight.dtype == torch.float32
        and weight.is_contiguous()
        and weight.numel() > 0
    )


def _converted(weights: list[Tensor], dtype: torch.dtype) -> dict[int, _Kept]:
    if not weights:
        return {}
    sizes = [covering(w.numel(), ALIGNED) * ALIGNED for w in weights]
    memory = torch.empty(sum(sizes), dtype=dtype, device=weights[0].device)
    lower = [
        part[: w.numel()].view(w.shape)
        for part, w in zip(memory.split(sizes), weights, strict=True)
    ]
    with torch.no_grad():
        torch._foreach_copy_(lower, weights)
    return {
        id(w): _Kept(w.data_ptr(), w._version, low)
        for w, low in zip(weights, lower, strict=True)
    }
