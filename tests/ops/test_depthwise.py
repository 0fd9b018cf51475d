"""Every form of the depthwise convolution equals its definition."""

import pytest
import torch
from parity import assert_as_exact_as_naive, assert_equal_in_double

from mmssm.ops import depthwise_conv

NAMES = ('y', 'x', 'weight', 'bias')
SHAPES = [(2, 3, 7, 9), (1, 5, 1, 1), (1, 2, 1, 6), (2, 4, 12, 3)]
FORMS = [(None, False), ('silu', False), (None, True), ('silu', True)]


def make(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = (shape, (shape[1], 1, 3, 3), shape[1:2])
    values = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in sizes]
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, form, backend):
    activation, residual = form
    y = depthwise_conv(
        *inputs, activation=activation, residual=residual, backend=backend
    )
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(y, inputs, cotangent.to(y.dtype))
    return dict(zip(NAMES, (y, *grads), strict=True))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('shape', SHAPES)
def test_library_equals_naive(shape, form):
    inputs = make(shape)
    fast, naive = (with_grads(inputs, form, b) for b in ('library', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('form', FORMS)
def test_library_is_as_exact_in_float32(form):
    single = make(SHAPES[0], torch.float32)
    double = [v.detach().double().requires_grad_() for v in single]
    exact = with_grads(double, form, 'naive')
    fast, naive = (with_grads(single, form, b) for b in ('library', 'naive'))
    for name in NAMES:
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


def test_an_impulse_gives_the_kernel_turned_around():
    x = torch.zeros(1, 1, 5, 4, dtype=torch.float64)
    x[0, 0, 2, 1] = 1
    weight = torch.arange(9.0, dtype=torch.float64).reshape(1, 1, 3, 3)
    y = depthwise_conv(x, weight, x.new_zeros(1))
    assert torch.equal(y[0, 0, 1:4, 0:3], weight[0, 0].flip(0, 1))
    assert y.sum() == weight.sum()


@pytest.mark.parametrize('form', FORMS)
def test_the_adjoint_keeps_the_map_once(form):
    inputs = make((1, 20, 30, 31), torch.float32)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t.nbytes) and t,
        lambda t: t,
    ):
        depthwise_conv(*inputs, activation=form[0], residual=form[1])
    assert sum(saved.values()) <= sum(t.nbytes for t in inputs)


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 3, 5), r'x has shape \(2, 3, 5\); expected \(B, C, H, W\)'),
        (1, (3, 1, 5, 5), r'weight has shape .* expected \(3, 1, 3, 3\)'),
        (2, (4,), r'bias has shape \(4,\); expected \(3,\)'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = make(SHAPES[0])
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        depthwise_conv(*inputs)


@pytest.mark.parametrize('backend', ['library', 'naive'])
def test_no_bias_is_a_bias_of_zero(backend):
    x, weight, _ = make(SHAPES[0])
    y = depthwise_conv(x, weight, activation='silu', backend=backend)
    expected = depthwise_conv(x, weight, x.new_zeros(3), activation='silu')
    assert_equal_in_double(y, expected)


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation is 'relu'; expected None or"):
        depthwise_conv(*make(SHAPES[0]), activation='relu')
