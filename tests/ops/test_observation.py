"""Every form of the observation equals its definition."""

from functools import partial

import pytest
import torch
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import observe
from mmssm.ops.fusion import shared_border
from mmssm.ops.fusion.shared_border import scaled_taps

SIZES = [(7, 9), (14, 14), (1, 1), (1, 8), (3, 2), (13, 5)]


def make(height, width, channels=3, count=3, dtype=torch.float64):
    """h, C, u, D, kernels, alpha."""
    generator = torch.Generator().manual_seed(height * width)
    randn = partial(torch.randn, generator=generator, dtype=torch.float64)
    values = (
        randn(2, channels, height, width),
        randn(2, 1, height, width),
        randn(2, channels, height, width),
        randn(channels),
        randn(count, channels, 1, 3, 3),
        randn(count),
    )
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, backend, dilations=(1, 3, 5)):
    y = observe(*inputs, dilations=dilations, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return y, *torch.autograd.grad(y, inputs, cotangent.to(y.dtype))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('dilations', [(1, 3, 5), (2,), (4, 1)])
def test_fast_equals_naive(size, dilations):
    inputs = make(*size, count=len(dilations))
    fast, naive = (with_grads(inputs, b, dilations) for b in (None, 'naive'))
    for actual, expected in zip(fast, naive, strict=True):
        assert_equal_in_double(actual, expected)


def test_fast_is_as_exact_in_float32():
    single = make(17, 33, dtype=torch.float32)
    double = [v.detach().double().requires_grad_() for v in single]
    fast, naive = (with_grads(single, b) for b in (None, 'naive'))
    for result in zip(fast, naive, with_grads(double, 'naive'), strict=True):
        assert_as_exact_as_naive(*result)


def test_one_pixel_by_hand():
    h, C, u = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (2, 3, 5))
    kernels = torch.ones(1, 1, 1, 3, 3, dtype=torch.float64)
    y = observe(h, C, u, h.new_tensor([7.0]), kernels, h.new_ones(1), dilations=(1,))
    assert y.item() == 3 * (9 * 2) + 7 * 5


def test_channels_last_input_gives_the_same():
    inputs = make(9, 12)
    expected = observe(*inputs)
    last = [
        v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v
        for v in inputs
    ]
    assert_equal_in_double(observe(*last), expected)


def test_result_is_float32_under_autocast():
    inputs = make(8, 6, dtype=torch.float32)
    half = [v.detach().bfloat16() if v.dim() == 4 else v for v in inputs]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = observe(*half)
    assert y.dtype == torch.float32
    assert torch.equal(y, observe(*(v.float() for v in half)))


def test_only_inputs_are_saved():
    h, C, u, D, kernels, alpha = make(9, 7)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        observe(h, C, u, D, kernels, alpha)
    largest = {t.data_ptr() for t in saved if t.numel() >= h.numel()}
    assert largest <= {h.data_ptr(), u.data_ptr(), kernels.data_ptr()}


def test_operator_is_registered_soundly():
    h, C, u, D, kernels, alpha = make(4, 6)
    taps = scaled_taps(kernels, alpha).detach().requires_grad_()
    opcheck(shared_border._observe.operator, (h, C, u, D, taps, [1, 3, 5]))


def test_gradients_do_not_follow_autocast():
    inputs = make(8, 6, dtype=torch.float32)
    expected = with_grads(inputs, None)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        for actual, exact in zip(with_grads(inputs, None), expected, strict=True):
            assert torch.equal(actual, exact)


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 3, 4), 'h has shape'),
        (1, (2, 3, 4, 5), r'C has shape .*; expected \(2, 1, 4, 5\)'),
        (2, (2, 3, 4, 4), r'u has shape .*; expected \(2, 3, 4, 5\)'),
        (3, (4,), r'D has shape \(4,\); expected \(3,\)'),
        (4, (3, 4, 1, 3, 3), r'expected \(K=3, C=3, 1, 3, 3\)'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = make(4, 5)
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        observe(*inputs)
