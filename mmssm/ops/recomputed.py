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

from mmssm.ops.lowered import lowered
from mmssm.ops.operator import is_recorded, is_transformed
from mmssm.ops.precision import no_autocast

HALF = (torch.bfloat16, torch.float16)
_WIDE = 'dtype' in torch.ops.aten.mm.overloads()  # of torch 2.8 and later


def linear_of(
    function: Callable[..., Tensor] | None,
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    parts: int = 1,
) -> tuple[Tensor, ...]:
    """weight f(inputs) + bias, without keeping f(inputs).

    function: of all inputs, to (..., C); deterministic, and differentiable in them: a
    tensor that it takes from elsewhere gets no gradient.  None: the one input is
    (..., C) itself, and kept.
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
    if is_recorded(given) or is_transformed():
        rows = rows_of(function, inputs)
        return _products(rows, weight, bias, parts, F.linear)
    if torch.is_grad_enabled():
        return _LinearOf.apply(function, parts, *tensors)
    rows = rows_of(function, inputs)
    return _products(rows, *_lowered(weight, bias, rows), parts, _product)


def rows_of(function: Callable[..., Tensor] | None, inputs: Sequence[Tensor]) -> Tensor:
    """What a function gives for the inputs; without one the only input."""
    return inputs[0] if function is None else function(*inputs)


def _lowered(
    weight: Tensor, bias: Tensor | None, rows: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as the product with the rows has them under autocast."""
    kind = rows.device.type
    if rows.is_meta or not torch.is_autocast_enabled(kind):
        return weight, bias
    if rows.dtype == torch.float64 or weight.dtype == torch.float64:
        return weight, bias  # autocast leaves them alone
    dtype = torch.get_autocast_dtype(kind)
    return lowered(weight, dtype), bias if bias is None else lowered(bias, dtype)


def _products(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    parts: int,
    product: Callable[..., Tensor],
) -> tuple[Tensor, ...]:
    if parts == 1:
        return (product(rows, weight, bias),)
    return tuple(product(rows, part, None) for part in weight.chunk(parts))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear; by the same kernels, in half of the time that a GPU's host needs."""
    kinds = (rows.dtype, weight.dtype if bias is None else bias.dtype)
    if not rows.is_cuda or kinds != (weight.dtype, weight.dtype):
        return F.linear(rows, weight, bias)
    flat = rows.reshape(-1, rows.shape[-1])
    if bias is None:
        found = torch.mm(flat, weight.t())
    else:
        found = torch.addmm(bias, flat, weight.t())
    return found.view(*rows.shape[:-1], weight.shape[0])


class _LinearOf(Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor] | None,
        parts: int,
        weight: Tensor,
        bias: Tensor | None,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        rows = rows_of(function, inputs)
        product, added = _lowered(weight, bias, rows)
        ctx.save_for_backward(weight, product, bias, *inputs)
        found = _products(rows, product, added, parts, _product)
        ctx.dtype = found[0].dtype
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with no_autocast(grads[0]):
            return _gradients(ctx, grads)


def _gradients(ctx: Any, grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    weight, product, bias, *inputs = ctx.saved_tensors
    again = torch.is_grad_enabled()  # the gradients are to be differentiated
    needs = ctx.needs_input_grad[4:]
    with torch.enable_grad():
        if not again:
            inputs = [
                t.detach().requires_grad_(need)
                for t, need in zip(inputs, needs, strict=True)
            ]
        rows = rows_of(ctx.function, inputs)
    # one matrix for each part, (O / parts, C) and (rows, O / parts)
    weights = (weight if again else product).to(ctx.dtype).chunk(len(grads))
    flat = [grad.flatten(0, -2) for grad in grads]
    of_rows = of_weight = of_bias = None
    if any(needs):
        of_rows = flat[0] @ weights[0]
        for grad, part in zip(flat[1:], weights[1:], strict=True):
            of_rows = torch.addmm(of_rows, grad, part)
    if ctx.needs_input_grad[2]:
        wide = rows.flatten(0, -2).to(ctx.dtype)
        found = [_sum_of_products(grad, wide, weight.dtype, again) for grad in flat]
        of_weight = found[0] if len(found) == 1 else torch.cat(found)
    if bias is not None and ctx.needs_input_grad[3]:
        of_bias = flat[0].sum(0).to(bias.dtype)
    asked = [t for t, need in zip(inputs, needs, strict=True) if need]
    found = iter(())
    if asked:
        of_rows = of_rows.to(rows.dtype).view_as(rows)
        if ctx.function is None:
            found = iter([of_rows])
        else:
            found = iter(torch.autograd.grad(rows, asked, of_rows, create_graph=again))
    of_inputs = [next(found) if need else None for need in needs]
    return None, None, of_weight, of_bias, *of_inputs


def _sum_of_products(
    grad: Tensor, rows: Tensor, dtype: torch.dtype, again: bool
) -> Tensor:
    """grad' rows in the weight's dtype: (L, O), (L, C) -> (O, C).

    Where a GPU can, the sums are not rounded to the maps' lower precision on the way.
    """
    half = grad.is_cuda and grad.dtype in HALF
    if _WIDE and half and dtype == torch.float32 and not again:
        return torch.mm(grad.mT, rows, out_dtype=dtype)
    return (grad.mT @ rows).to(dtype)
