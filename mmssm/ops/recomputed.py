"""Linear maps of what can be computed again, which is then not kept.

Autograd keeps the input of a linear map for the weight's gradient.  Where that input is
cheap to have again from something that is kept anyway (an activation, a norm), the
backward pass computes it again: four of an MLP's nine maps less, and one for each norm.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from mmssm.ops.operator import is_recorded, is_transformed
from mmssm.ops.precision import no_autocast


def linear_of(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    parts: int = 1,
) -> tuple[Tensor, ...]:
    """weight f(inputs) + bias, without keeping f(inputs).

    function: of all inputs, to (..., C); deterministic, and differentiable in them: a
    tensor that it takes from elsewhere gets no gradient.
    weight: (O, C).  bias: (O,).  Returns `parts` tensors (..., O / parts): the first
    rows of the weight, and so on, each contiguous.
    The value is that of F.linear, in the dtype that autocast gives it; so are the
    gradients, of second order too where the function has them.
    Raises ValueError where the weight's rows cannot be parted, or bias and parts come
    together.
    """
    if parts < 1 or weight.shape[0] % parts or (bias is not None and parts != 1):
        raise ValueError(
            f'parts is {parts!r} for a weight {tuple(weight.shape)}, bias '
            f'{bias is not None}; expected a divisor of the rows, 1 beside a bias'
        )
    tensors = (weight, bias, *inputs)
    given = [t for t in tensors if t is not None]
    if not torch.is_grad_enabled() or is_recorded(given) or is_transformed():
        return _products(function(*inputs), weight, bias, parts)
    return _LinearOf.apply(function, parts, *tensors)


def _products(
    rows: Tensor, weight: Tensor, bias: Tensor | None, parts: int
) -> tuple[Tensor, ...]:
    if parts == 1:
        return (F.linear(rows, weight, bias),)
    return tuple(F.linear(rows, part) for part in weight.chunk(parts))


class _LinearOf(Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        parts: int,
        weight: Tensor,
        bias: Tensor | None,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(weight, bias, *inputs)
        found = _products(function(*inputs), weight, bias, parts)
        ctx.dtype = found[0].dtype
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with no_autocast(grads[0]):
            return _gradients(ctx, grads)


def _gradients(ctx: Any, grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    weight, bias, *inputs = ctx.saved_tensors
    again = torch.is_grad_enabled()  # the gradients are to be differentiated
    needs = ctx.needs_input_grad[4:]
    with torch.enable_grad():
        if not again:
            inputs = [
                t.detach().requires_grad_(need)
                for t, need in zip(inputs, needs, strict=True)
            ]
        rows = ctx.function(*inputs)
    # one matrix for each part, (O / parts, C) and (rows, O / parts)
    weights = weight.to(ctx.dtype).chunk(len(grads))
    flat = [grad.flatten(0, -2) for grad in grads]
    of_rows = of_weight = of_bias = None
    if any(needs):
        of_rows = flat[0] @ weights[0]
        for grad, part in zip(flat[1:], weights[1:], strict=True):
            of_rows = torch.addmm(of_rows, grad, part)
    if ctx.needs_input_grad[2]:
        wide = rows.flatten(0, -2).to(ctx.dtype)
        of_weight = torch.cat([grad.mT @ wide for grad in flat]).to(weight.dtype)
    if bias is not None and ctx.needs_input_grad[3]:
        of_bias = flat[0].sum(0).to(bias.dtype)
    asked = [t for t, need in zip(inputs, needs, strict=True) if need]
    found = iter(())
    if asked:
        of_rows = of_rows.to(rows.dtype).view_as(rows)
        found = iter(torch.autograd.grad(rows, asked, of_rows, create_graph=again))
    of_inputs = [next(found) if need else None for need in needs]
    return None, None, of_weight, of_bias, *of_inputs
