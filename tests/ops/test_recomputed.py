"""A linear map of what is computed again: same values and gradients, less kept."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_equal_in_double
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmssm.ops import channel_norm, linear_of


def gated(x, y):
    return torch.tanh(x) * y.exp()


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    shapes = [(2, 3, 5, 7), (2, 3, 5, 7), (6, 7), (6,)]
    return [torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes]


def kept_bytes(run):
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    return sum(s.nbytes() for s in storages.values()), result


@pytest.mark.parametrize('parts', [1, 2, 3])
@pytest.mark.parametrize('with_bias', [True, False])
def test_values_and_gradients(inputs, parts, with_bias):
    x, y, weight, bias = inputs
    if with_bias and parts > 1:
        with pytest.raises(ValueError, match='parts is'):
            linear_of(gated, (x, y), weight, bias, parts=parts)
        return
    bias = bias if with_bias else None
    found = linear_of(gated, (x, y), weight, bias, parts=parts)
    assert len(found) == parts
    assert all(part.is_contiguous() for part in found)
    expected = F.linear(gated(x, y), weight, bias)
    assert_equal_in_double(torch.cat(found, -1), expected)
    cotangent = torch.randn_like(expected)
    asked = [t for t in (x, y, weight, bias) if t is not None]
    right = torch.autograd.grad(expected, asked, cotangent)
    grads = torch.autograd.grad(found, asked, cotangent.chunk(parts, -1))
    for grad, wanted in zip(grads, right, strict=True):
        assert_equal_in_double(grad, wanted)


def test_any_subset_of_gradients(inputs):
    for asked in range(1, 16):
        chosen = [t.detach() for t in inputs]
        wanted = [t for i, t in enumerate(chosen) if asked >> i & 1]
        for tensor in wanted:
            tensor.requires_grad_()
        x, y, weight, bias = chosen
        (found,) = linear_of(gated, (x, y), weight, bias)
        expected = F.linear(gated(x, y), weight, bias)
        grads = torch.autograd.grad(found.square().sum(), wanted)
        right = torch.autograd.grad(expected.square().sum(), wanted)
        for grad, other in zip(grads, right, strict=True):
            assert_equal_in_double(grad, other)


def test_second_derivatives(inputs):
    def run(*tensors):
        return linear_of(gated, tensors[:2], *tensors[2:])[0]

    small = [t.detach()[:1, :1, :2].requires_grad_() for t in inputs[:2]]
    assert torch.autograd.gradgradcheck(run, (*small, *inputs[2:]))


def test_the_result_of_the_function_is_not_kept(inputs):
    x, y, weight, bias = inputs
    less, _ = kept_bytes(lambda: linear_of(gated, (x, y), weight, bias))
    needed = sum(t.untyped_storage().nbytes() for t in inputs)
    assert less == needed
    more, _ = kept_bytes(lambda: F.linear(gated(x, y), weight, bias))
    assert more == less + x.nbytes - bias.nbytes


def test_inside_a_checkpoint_nothing_is_kept(inputs):
    x, y, weight, bias = inputs

    def block(x):
        return linear_of(gated, (x.sin(), y), weight, bias)[0]

    kept, found = kept_bytes(lambda: checkpoint(block, x, use_reentrant=False))
    assert kept == x.nbytes
    right = torch.autograd.grad(block(x).sum(), inputs)
    for pair in zip(torch.autograd.grad(found.sum(), inputs), right, strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_as_for_a_linear_map(inputs, dtype):
    x, y, weight, bias = (t.detach().float().requires_grad_() for t in inputs)
    with torch.autocast('cpu', dtype):
        (found,) = linear_of(gated, (x, y), weight, bias)
        expected = F.linear(gated(x, y), weight, bias)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    both = (
        torch.autograd.grad(z.float().square().sum(), (x, y, weight, bias))
        for z in (found, expected)
    )
    for grad, wanted in zip(*both, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(
            grad, wanted, rtol=0.05, atol=0.05 * wanted.abs().max()
        )


def test_compiled_and_transformed(inputs):
    x, y, weight, bias = (t.detach() for t in inputs)

    def run(x):
        return linear_of(gated, (x, y), weight, bias)[0].square().sum()

    expected = torch.autograd.grad(run(x.requires_grad_()), x)[0]
    x = x.detach()
    assert_equal_in_double(torch.func.grad(run)(x), expected)
    compiled = torch.compile(run, backend='aot_eager', fullgraph=True)
    leaf = x.clone().requires_grad_()
    compiled(leaf).backward()
    assert_equal_in_double(leaf.grad, expected)
    _, tangent = torch.func.jvp(run, (x,), (torch.ones_like(x),))
    assert_equal_in_double(tangent, expected.sum())


def test_a_norm_as_the_function():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, 5, dtype=torch.float64, requires_grad=True)
    norm, linear = nn.LayerNorm(7).double(), nn.Linear(7, 4).double()

    def rows(x, weight, bias):
        return channel_norm(x, weight, bias).movedim(1, -1)

    tensors = (x, norm.weight, norm.bias)
    (found,) = linear_of(rows, tensors, linear.weight, linear.bias)
    expected = linear(norm(x.movedim(1, -1)))
    assert_equal_in_double(found, expected)
    both = (torch.autograd.grad(z.square().sum(), tensors) for z in (found, expected))
    for pair in zip(*both, strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.parametrize('parts', [1, 2])
def test_rows_as_they_are(inputs, parts):
    x, _, weight, bias = inputs
    bias = bias if parts == 1 else None
    asked = [x, weight] + [bias] * (parts == 1)
    found = torch.cat(linear_of(None, (x,), weight, bias, parts=parts), -1)
    expected = F.linear(x, weight, bias)
    assert_equal_in_double(found, expected)
    for order in range(2):
        grads = [
            torch.autograd.grad(y.pow(3).sum(), asked, create_graph=True)
            for y in (found, expected)
        ]
        for ours, theirs in zip(*grads, strict=True):
            assert_equal_in_double(ours, theirs)
        found, expected = (g[order].sin() for g in grads)
