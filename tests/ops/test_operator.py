"""What an operator made once promises: values, derivatives, and clear refusals."""

import pytest
import torch
from parity import assert_equal_in_double
from torch import Tensor
from torch.library import opcheck

from mmssm.ops import observe, selective_scan, ssm2d, state_fusion
from mmssm.ops.operator import differentiable

CALLS = []


def _forward(x: Tensor, y: Tensor | None, power: int) -> Tensor:
    CALLS.append('forward')
    return x**power if y is None else x**power * y


def _adjoint(
    grad: Tensor, x: Tensor, y: Tensor | None, power: int, needs: list[bool]
) -> list[Tensor]:
    CALLS.append(needs)
    assert not torch.is_autocast_enabled('cpu')
    slope = grad * power * x ** (power - 1)
    return [slope] if y is None else [slope * y, grad * x**power]


def _like(x: Tensor, y: Tensor | None, power: int) -> Tensor:
    return torch.empty_like(x)


def _adjoint_like(grad: Tensor, x: Tensor, y: Tensor | None, *rest: object):
    return [torch.empty_like(t) for t in (x, y) if t is not None]


powered = differentiable('mmssm::test_power', _forward, _adjoint, _like, _adjoint_like)


def _both(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.exp(), x + 1


def _both_adjoint(
    grad: Tensor, x: Tensor, result: Tensor, kept: Tensor
) -> list[Tensor]:
    assert torch.equal(kept, x + 1)
    return [grad * result]


exponential = differentiable(
    'mmssm::test_exponential',
    _both,
    _both_adjoint,
    lambda x: (torch.empty_like(x), torch.empty_like(x)),
    lambda grad, x, *kept: [torch.empty_like(x)],
    keeps_result=True,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64) + 0.5
    return [v.requires_grad_() for v in values]


@pytest.mark.parametrize('given', [True, False])
def test_gradients_are_those_of_the_formula(pair, given):
    x, y = pair
    inputs = (x, y if given else None, 3)
    leaves = pair if given else [x]
    result = powered(*inputs)
    expected = x**3 * y if given else x**3
    assert_equal_in_double(result, expected)
    cotangent = torch.randn_like(expected)
    for pair_of_gradients in zip(
        torch.autograd.grad(result, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        assert_equal_in_double(*pair_of_gradients)


def test_what_forward_keeps_reaches_the_adjoint(pair):
    x = pair[0]
    (grad,) = torch.autograd.grad(exponential(x).sum(), x)
    assert_equal_in_double(grad, x.exp())
    compiled = torch.compile(exponential, backend='aot_eager', fullgraph=True)
    (grad,) = torch.autograd.grad(compiled(x).sum(), x)
    assert_equal_in_double(grad, x.exp())


def test_the_adjoint_is_told_what_is_needed_outside_of_autocast(pair):
    x, y = pair
    CALLS.clear()
    with torch.autocast('cpu', torch.bfloat16):
        powered(x, y.detach(), 2).sum().backward()
    assert CALLS == ['forward', [True, False, False]]


def test_the_operator_is_registered_soundly(pair):
    opcheck(powered.operator, (*pair, 2))
    opcheck(powered.operator, (pair[0], None, 2))


def test_graphs_see_one_operator(pair):
    seen = []

    def backend(graph, inputs):
        seen.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    torch.compile(lambda *p: powered(*p, 2), backend=backend, fullgraph=True)(*pair)
    assert torch.ops.mmssm.test_power.default in seen or powered.operator in seen


def test_shapes_are_told_without_computing(pair):
    CALLS.clear()
    with torch.device('meta'):
        result = powered(torch.empty(3, 5), None, 2)
    assert result.shape == (3, 5)
    assert CALLS == []


def ops():
    generator = torch.Generator().manual_seed(0)

    def randn(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    maps, taps = (1, 2, 4, 5), (randn(3, 2, 1, 3, 3), randn(3))
    A, B = randn(4, 1, 2).sigmoid(), randn(2, 1, 2).sigmoid()
    scan = (randn(1, 2, 6), randn(1, 2, 6), -randn(2, 1).exp(), randn(1, 1, 1, 6))
    observed = (randn(*maps), randn(1, 1, 4, 5), randn(*maps), randn(2), *taps)
    return {
        'selective_scan': (selective_scan, scan),
        'state_fusion': (state_fusion, (randn(*maps), *taps)),
        'observe': (observe, observed),
        'ssm2d': (ssm2d, (randn(*maps), A, B, randn(2, 4, 2, 2))),
    }


@pytest.mark.parametrize('name', ops())
def test_forward_mode_is_refused_by_name(name):
    op, inputs = ops()[name]
    tangents = tuple(torch.ones_like(t) for t in inputs)
    with pytest.raises((NotImplementedError, RuntimeError), match='forward-mode'):
        torch.func.jvp(op, inputs, tangents)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs[0], tangents[0])
        with pytest.raises((NotImplementedError, RuntimeError), match='forward-mode'):
            op(dual, *inputs[1:])


@pytest.mark.parametrize('name', ops())
def test_forward_mode_is_refused_in_compiled_code(name):
    op, inputs = ops()[name]

    def tangent(x):
        ones = (torch.ones_like(x),)
        return torch.func.jvp(lambda x: op(x, *inputs[1:]), (x,), ones)

    try:
        with pytest.raises((NotImplementedError, RuntimeError), match='forward-mode'):
            torch.compile(tangent, backend='eager')(inputs[0])
    finally:
        torch._dynamo.reset()  # it skips functions that raised


@pytest.mark.parametrize('name', ops())
def test_forward_mode_of_the_gradient_is_refused_by_name(name):
    op, inputs = ops()[name]
    x = inputs[0].requires_grad_()
    y = op(*inputs)
    with torch.autograd.forward_ad.dual_level():
        ones = torch.ones_like(y)
        dual = torch.autograd.forward_ad.make_dual(ones, ones)
        with pytest.raises(NotImplementedError, match='forward-mode'):
            torch.autograd.grad(y, x, dual)


@pytest.mark.parametrize('power', [1, 2])  # 1: a cotangent that needs no gradient
@pytest.mark.parametrize('name', ops())
def test_a_second_derivative_is_refused_by_name(name, power):
    op, inputs = ops()[name]
    x = inputs[0].requires_grad_()
    loss = op(*inputs).pow(power).sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match='second derivative'):
        (loss + grad.square().sum()).backward()


@pytest.mark.parametrize('name', ops())
def test_torch_func_grad_equals_autograd(name):
    op, inputs = ops()[name]
    found = torch.func.grad(lambda x: op(x, *inputs[1:]).square().sum())(inputs[0])
    x = inputs[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(op(x, *inputs[1:]).square().sum(), x)
    assert_equal_in_double(found, expected)


@pytest.mark.parametrize('name', ops())
def test_batching_is_refused(name):
    op, inputs = ops()[name]
    batch = torch.stack([inputs[0]] * 2)
    with pytest.raises(RuntimeError, match='vmap'):
        torch.func.vmap(lambda x: op(x, *inputs[1:]))(batch)
