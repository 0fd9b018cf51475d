"""Every form of the norm over channels equals its definition."""

import pytest
import torch
import torch.nn.functional as F
from parity import (
    assert_as_exact_as_naive,
    assert_equal_in_double,
    relative_error,
)

from mmssm.ops import channel_norm

NAMES = ('y', 'x', 'weight', 'bias')
SHAPES = [(2, 6, 5, 7), (1, 2, 3, 2), (1, 33, 1, 1), (3, 20, 4, 9)]


def make(shape, dtype=torch.float64, low=None):
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = (shape, shape[1:2], shape[1:2])
    values = [
        torch.randn(*s, generator=generator, dtype=torch.float64) + 0.5 for s in sizes
    ]
    dtypes = (low or dtype, dtype, dtype)
    return [v.to(t).requires_grad_() for v, t in zip(values, dtypes, strict=True)]


def with_grads(inputs, backend):
    y = channel_norm(*inputs, 1e-3, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(y, inputs, cotangent.to(y.dtype))
    return dict(zip(NAMES, (y, *grads), strict=True))


@pytest.mark.parametrize('shape', SHAPES)
def test_library_equals_naive(shape):
    inputs = make(shape)
    fast, naive = (with_grads(inputs, b) for b in ('library', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('low', [torch.float32, torch.bfloat16, torch.float16])
def test_library_is_as_exact_in_lower_precision(low):
    inputs = make(SHAPES[3], torch.float32, low)
    exact = [v.detach().double().requires_grad_() for v in inputs]
    exact = with_grads(exact, 'naive')
    fast, naive = (with_grads(inputs, b) for b in ('library', 'naive'))
    assert fast['y'].dtype == low
    for name in NAMES:
        assert fast[name].dtype == naive[name].dtype
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


@pytest.mark.parametrize('low', [torch.bfloat16, torch.float16])
def test_gradients_of_parameters_are_sums_in_float32(low):
    inputs = make((1, 6, 90, 110), torch.float32, low)
    exact = [v.detach().double().requires_grad_() for v in inputs]
    fast, exact = with_grads(inputs, 'library'), with_grads(exact, 'library')
    for name in ('weight', 'bias'):
        # the cotangent is rounded to 16 bits
        assert relative_error(fast[name], exact[name]) < 0.02, name


def test_second_derivatives_where_the_map_needs_none():
    x, weight, bias = make(SHAPES[3], torch.float32, torch.bfloat16)
    y = channel_norm(x.detach(), weight, bias, 1e-3, backend='library')
    grads = torch.autograd.grad(y.float().square().sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(grads[0].sum(), weight)
    assert second.isfinite().all()
    assert second.any()


def test_second_derivatives_in_lower_precision():
    found = []
    for low in (torch.bfloat16, torch.float64):
        dtype = torch.float32 if low == torch.bfloat16 else low
        inputs = make(SHAPES[3], dtype, low)
        y = channel_norm(*inputs, 1e-3, backend='library').double().square().sum()
        grads = torch.autograd.grad(y, inputs, create_graph=True)
        found.append(torch.autograd.grad(grads[0].double().square().sum(), inputs[1]))
    assert relative_error(found[0][0], found[1][0]) < 0.05


@pytest.mark.parametrize('backend', ['library', 'naive'])
def test_equals_the_layer_norm_of_rows(backend):
    x, weight, bias = make(SHAPES[0])
    rows = x.permute(0, 2, 3, 1)
    expected = F.layer_norm(rows, rows.shape[-1:], weight, bias, 1e-3)
    actual = channel_norm(x, weight, bias, 1e-3, backend=backend)
    assert_equal_in_double(actual, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize('backend', ['library', 'naive'])
def test_autocast_does_not_change_it(backend):
    inputs = make(SHAPES[0], torch.float32, torch.bfloat16)
    expected = channel_norm(*inputs, backend=backend)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(channel_norm(*inputs, backend=backend), expected)


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 6, 5), r'x has shape \(2, 6, 5\); expected \(B, C, H, W\)'),
        (0, (2, 6, 0, 7), 'no zero'),
        (1, (5,), r'weight has shape \(5,\); expected \(C=6,\)'),
        (2, (6, 1), 'bias has shape'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = make((2, 6, 5, 7))
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        channel_norm(*inputs)


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend 'cuda'; expected None or one of"):
        channel_norm(*make(SHAPES[1]), backend='cuda')
