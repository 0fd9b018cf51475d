"""Neighbouring modules computed as one, so that less is kept for the backward pass."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mmssm.ops import linear_of
from mmssm.ops.recomputed import rows_of


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call does nothing but what the class does with its own parameters.

    False for a subclass (parametrised, quantised, with adapters), and for a module that
    has hooks or a forward of its own.
    """
    return (
        type(module) is kind
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and 'forward' not in vars(module)
    )


def linear_after(
    linear: nn.Module,
    function: Callable[..., Tensor] | None,
    inputs: Sequence[Tensor],
    parts: int = 1,
) -> tuple[Tensor, ...]:
    """linear(function(*inputs)) in parts, see `ops.linear_of`.

    A linear layer that is not plain is called as it is.
    """
    if is_plain(linear, nn.Linear):
        return linear_of(function, inputs, linear.weight, linear.bias, parts=parts)
    return linear(rows_of(function, inputs)).chunk(parts, -1)
