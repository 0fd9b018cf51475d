"""Every form of the gated norm equals its definition."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_as_exact_as_naive, assert_equal_in_double

from mmssm.ops import gated_norm

NAMES = ('out', 'y', 'z', 'weight', 'bias')
SHAPES = [(2, 6, 5, 7), (1, 2, 3, 2), (1, 33, 1, 1), (3, 20, 4, 9)]


def make(shape, dtype=torch.float64, gate=None):
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = (shape, shape, shape[1:2], shape[1:2])
    values = [
        torch.randn(*s, generator=generator, dtype=torch.float64) + 0.5 for s in sizes
    ]
    dtypes = (dtype, gate or dtype, dtype, dtype)
    return [v.to(t).requires_grad_() for v, t in zip(values, dtypes, strict=True)]


def with_grads(inputs, backend):
    out = gated_norm(*inputs, 1e-3, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(out, inputs, cotangent.to(out.dtype))
    return dict(zip(NAMES, (out, *grads), strict=True))


@pytest.mark.parametrize('shape', SHAPES)
def test_recomputed_equals_naive(shape):
    inputs = make(shape)
    fast, naive = (with_grads(inputs, b) for b in ('recomputed', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('gate', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('shape', SHAPES[:1])
def test_recomputed_is_as_exact_in_lower_precision(shape, gate):
    inputs = make(shape, torch.float32, gate)
    exact = [v.detach().double().requires_grad_() for v in inputs]
    exact = with_grads(exact, 'naive')
    fast, naive = (with_grads(inputs, b) for b in ('recomputed', 'naive'))
    assert fast['out'].dtype == gate
    for name in NAMES:
        assert fast[name].dtype == naive[name].dtype
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


@pytest.mark.parametrize('backend', ['recomputed', 'naive'])
def test_equals_the_layer_norm_times_the_gate(backend):
    y, z, weight, bias = make(SHAPES[0])
    last = y.permute(0, 2, 3, 1)
    expected = F.layer_norm(last, last.shape[-1:], weight, bias, 1e-3)
    expected = (expected * F.silu(z.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    actual = gated_norm(y, z, weight, bias, 1e-3, backend=backend)
    assert_equal_in_double(actual, expected)


def test_the_adjoint_keeps_two_maps():
    inputs = make((1, 20, 30, 31), torch.float32, torch.bfloat16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.nbytes) or t, lambda t: t
    ):
        gated_norm(*inputs)
    assert sum(saved) == sum(t.nbytes for t in inputs)


def test_float64_and_autocast_do_not_change_it():
    inputs = make(SHAPES[0], torch.float32, torch.bfloat16)
    expected = gated_norm(*inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(gated_norm(*inputs), expected)


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 6, 5), r'y has shape \(2, 6, 5\); expected \(B, C, H, W\)'),
        (0, (2, 6, 0, 7), 'no zero'),
        (1, (2, 6, 7, 5), 'expected that of y'),
        (2, (5,), r'weight has shape \(5,\); expected \(C=6,\)'),
        (3, (6, 1), 'bias has shape'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = make((2, 6, 5, 7))
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        gated_norm(*inputs)


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend 'cuda'; expected None or one of"):
        gated_norm(*make(SHAPES[1]), backend='cuda')
