"""A custom operator and its gradient, written once.

    run = differentiable('mmssm::op', forward, adjoint, like)
Whoever records a graph (torch.compile, torch.export, fake tensors, counters) sees one
operator and its adjoint, kept whole.  Eager calls go through an autograd function
straight to `forward` and `adjoint`, which costs a tenth of an operator's way through
the dispatcher.

What cannot be differentiated is said here, by name: there is no forward mode, no second
derivative and no batching rule.
"""

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import custom_op
from torch.nn import Parameter

from mmssm.ops.precision import no_autocast, precision

OLDER = {list: typing.List, Sequence: typing.Sequence}  # noqa: UP006 (their old names)

# Before torch 2.7 nothing tells a graph that is exported, with sizes that may be any,
# from one that is compiled: what fits both is recorded then
is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)


def differentiable(
    name: str,
    forward: Callable[..., Tensor],
    adjoint: Callable[..., Sequence[Tensor]],
    like: Callable[..., Tensor],
    adjoint_like: Callable[..., Sequence[Tensor]] | None = None,
    *,
    keeps_result: bool = False,
    widens: bool = False,
) -> Callable[..., Tensor]:
    """What computes `forward` and is differentiated by `adjoint`.

    name: of the operator, 'mmssm::NAME'; the adjoint's ends in '_adjoint'.
    forward: of tensors, which may be None, and other arguments; all annotated, since
    the operator's schema is read from them.  It may give a tuple: the result, then what
    only the adjoint needs.
    adjoint: (gradient of the result, *the same arguments) -> gradients of the tensors
    that are not None, in their order; with keeps_result all that `forward` gave follows
    the arguments, and where it has a parameter `needs: list[bool]` it is told last
    which of the arguments ask for a gradient.  It runs outside of autocast.
    widens: all of this is of tensors in one dtype, that of `precision`; what is saved
    has the dtype that it came in, and so have the gradients.
    like: an empty result for the arguments; adjoint_like: empty gradients for the
    adjoint's, by default (without keeps_result) like the tensors, contiguous.
    """
    told = 'needs' in inspect.signature(adjoint).parameters
    adjoint_like = adjoint_like or _like_inputs
    if widens:
        forward, like = _widened(forward), _widened(like)
        adjoint, adjoint_like = _narrowed(adjoint), _narrowed(adjoint_like)
    operator = custom_op(name, _readable(forward), mutates_args=())
    adjoint_operator = custom_op(
        f'{name}_adjoint', _readable(_apart(adjoint)), mutates_args=()
    )
    operator.register_fake(like)
    adjoint_operator.register_fake(adjoint_like)

    def save(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.places = [isinstance(value, Tensor) for value in inputs]
        ctx.others = [v for v in inputs if not isinstance(v, Tensor)]
        tensors = [v for v in inputs if isinstance(v, Tensor)]
        results = output if isinstance(output, tuple) else (output,)
        ctx.save_for_backward(*tensors, *(results if keeps_result else ()))

    def back(
        run: Callable[..., Sequence[Tensor]], ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        inputs = [next(tensors if place else others) for place in ctx.places]
        needs = list(ctx.needs_input_grad)
        with no_autocast(grad):
            found = run(grad, *inputs, *tensors, *([needs] if told else []))
        grads = iter(found)
        every = [next(grads) if place else None for place in ctx.places]
        return tuple(g if need else None for g, need in zip(every, needs, strict=True))

    def recorded_back(
        ctx: Any, grad: Tensor, *unused: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return back(adjoint_operator, ctx, grad)

    def direct_back(
        ctx: Any, grad: Tensor, *unused: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        run = adjoint_operator if is_recorded((grad,)) else adjoint
        if not (torch.is_grad_enabled() or is_transformed()):
            return back(run, ctx, grad)
        with torch.no_grad():  # kernels leave no trace that could be differentiated
            grads = back(run, ctx, grad)
        roots = (grad, *ctx.saved_tensors)
        return tuple(g if g is None else _Once.apply(name, g, *roots) for g in grads)

    def refuse(ctx: Any, *tangents: Any) -> Tensor:
        _refuse_tangents(name)

    operator.register_autograd(recorded_back, setup_context=save)
    members = {
        'forward': staticmethod(forward),
        'setup_context': staticmethod(save),
        'backward': staticmethod(direct_back),
        'jvp': staticmethod(refuse),
    }
    direct = type(name.replace('::', '_'), (Function,), members)
    # without transforms torch's way there, which binds the signature at every call
    straight = super(Function, direct).apply

    def run(*inputs: Any) -> Tensor:
        if is_recorded(inputs):
            if _in_forward_mode():  # an operator's derivative would be zero there
                _refuse_tangents(name)
            found = operator(*inputs)
        elif is_transformed():
            found = direct.apply(*inputs)
        elif torch.is_grad_enabled():
            found = straight(*inputs)
        else:
            found = forward(*inputs)
        return found[0] if isinstance(found, tuple) else found

    run.__name__ = run.__qualname__ = name.partition('::')[2]
    run.operator = operator
    return run


class _Once(Function):
    """A gradient that cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, grad: Tensor, *roots: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        _refuse_tangents(ctx.name)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError(
            f"{ctx.name} has no second derivative; backend='naive' of the op has one"
        )


def _readable(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` as torch before 2.7 reads a schema, which knows its types by old names."""

    @wraps(run)
    def readable(*inputs: Any) -> Any:
        return run(*inputs)

    signature = inspect.signature(run)
    readable.__signature__ = signature.replace(
        parameters=[
            p.replace(annotation=_older(p.annotation))
            for p in signature.parameters.values()
        ],
        return_annotation=_older(signature.return_annotation),
    )
    return readable


def _older(annotation: Any) -> Any:
    """`List[int]` for `list[int]`, and so on, also where it is one of several."""
    kind, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if kind in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_older, inside))]  # noqa: UP007 (built here)
    return OLDER[kind][inside[0]] if kind in OLDER else annotation


def _refuse_tangents(name: str) -> NoReturn:
    raise NotImplementedError(
        f"{name} has no forward-mode derivative; backend='naive' of the op has one"
    )


def _widened(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` of tensors that have been brought to one dtype."""

    @wraps(run)
    def of_wide(*inputs: Any) -> Any:
        return run(*_wide(inputs))

    return of_wide


def _narrowed(run: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
    """An adjoint of widened tensors; the gradients in the dtype of what they are of."""

    # what forward gave and what is asked for may follow the arguments
    @wraps(run)
    def back(grad: Tensor, *inputs: Any) -> list[Tensor]:
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        grads = run(*_wide((grad, *inputs)))
        return [g.to(t.dtype) for g, t in zip(grads, tensors, strict=False)]

    return back


def _apart(run: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
    """`run`, whose results share no memory, which those of an operator must not."""

    @wraps(run)
    def of_own(*inputs: Any) -> Sequence[Tensor]:
        results, own, seen = run(*inputs), [], set()
        for result in results:
            memory = result.untyped_storage().data_ptr()
            shared = memory in seen and result.numel() > 0
            own.append(result.clone() if shared else result)
            seen.add(memory)
        return type(results)(own)

    return of_own


def _wide(inputs: Sequence[Any]) -> list[Any]:
    dtype = precision(*(value for value in inputs if isinstance(value, Tensor)))
    return [v.to(dtype) if isinstance(v, Tensor) else v for v in inputs]


def _like_inputs(grad: Tensor, *inputs: Any) -> list[Tensor]:
    contiguous = torch.contiguous_format
    return [
        torch.empty_like(value, memory_format=contiguous)
        for value in inputs
        if isinstance(value, Tensor)
    ]


def is_recorded(inputs: Sequence[Any]) -> bool:
    """Whether a graph or a mode wants to see an operator."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return True
    if torch.jit.is_tracing():
        return True
    for value in inputs:  # at every call of an operator, hence no shorter form
        kind = type(value)
        if kind is Tensor or kind is Parameter:
            if value.is_meta:
                return True
        elif isinstance(value, Tensor):
            return True
    return False


def is_transformed() -> bool:
    """Whether forward-mode derivatives or transforms of torch.func may be under way."""
    level = torch.autograd.forward_ad._current_level
    return level >= 0 or torch._C._are_functorch_transforms_active()


@torch.compiler.assume_constant_result
def _in_forward_mode() -> bool:
    return torch.autograd.forward_ad._current_level >= 0
