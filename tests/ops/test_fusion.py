"""Every form of the state fusion equals its definition and the official values."""

from functools import partial

import golden
import pytest
import torch
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import merge_kernels, state_fusion
from mmssm.ops.fusion import shared_border

FAST = ['shared_border']
SIZES = [(7, 9), (14, 14), (1, 1), (1, 8), (3, 2), (13, 5)]


def make(height, width, channels=3, dilations=(1, 3, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * width)
    randn = partial(torch.randn, generator=generator, dtype=torch.float64)
    count = len(dilations)
    values = (
        randn(2, channels, height, width),
        randn(count, channels, 1, 3, 3),
        randn(count),
    )
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, backend, dilations=(1, 3, 5)):
    mixed = state_fusion(*inputs, dilations=dilations, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(mixed.shape, generator=generator, dtype=torch.float64)
    return mixed, *torch.autograd.grad(mixed, inputs, cotangent.to(mixed.dtype))


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('dilations', [(1, 3, 5), (2,), (4, 1)])
def test_fast_equals_naive(backend, size, dilations):
    inputs = make(*size, dilations=dilations)
    fast = with_grads(inputs, backend, dilations)
    for actual, expected in zip(
        fast, with_grads(inputs, 'naive', dilations), strict=True
    ):
        assert_equal_in_double(actual, expected)


def test_blocks_of_rows_add_up(monkeypatch):
    inputs = make(11, 9)
    monkeypatch.setattr(shared_border, 'BLOCK', 120)
    fast, naive = (with_grads(inputs, b) for b in ('shared_border', 'naive'))
    for actual, expected in zip(fast, naive, strict=True):
        assert_equal_in_double(actual, expected)


@pytest.mark.parametrize('backend', FAST)
def test_fast_is_as_exact_in_float32(backend):
    single = make(17, 33, dtype=torch.float32)
    double = [v.detach().double().requires_grad_() for v in single]
    fast, naive = (with_grads(single, b) for b in (backend, 'naive'))
    for result in zip(fast, naive, with_grads(double, 'naive'), strict=True):
        assert_as_exact_as_naive(*result)


@pytest.mark.parametrize('backend', [*FAST, 'naive'])
def test_official_values_and_gradients(backend):
    data = golden.load('spatial_mamba_ops')
    cases = {key.split('/')[0] for key in data if key.startswith('fusion')}
    assert len(cases) == 4
    parts = ('kernel_3', 'kernel_3_1', 'kernel_3_2')
    for case in cases:
        values = {k.split('/')[1]: v for k, v in data.items() if k.startswith(case)}
        kernels = torch.stack([values[part] for part in parts])
        inputs = [
            v.double().requires_grad_() for v in (values['h'], kernels, values['alpha'])
        ]
        mixed = state_fusion(*inputs, backend=backend)
        grads = torch.autograd.grad(mixed, inputs, values['cot'].double())
        assert_equal_in_double(mixed, values['out'], case)
        assert_equal_in_double(grads[0], values['grad_h'], case)
        for part, grad in zip(parts, grads[1], strict=True):
            assert_equal_in_double(grad, values[f'grad_{part}'], case)
        assert_equal_in_double(grads[2], values['grad_alpha'], case)
        merged = merge_kernels(*inputs[1:])
        assert_equal_in_double(merged, values['merged_weight_11x11'], case)


def test_impulse_gives_the_mirrored_kernel():
    _, kernels, alpha = make(1, 1, channels=2)
    h = torch.zeros(1, 2, 21, 21, dtype=torch.float64)
    h[..., 10, 10] = 1
    around = state_fusion(h, kernels, alpha)[0, :, 5:16, 5:16]
    assert_equal_in_double(around, merge_kernels(kernels, alpha)[:, 0].flip(1, 2))


def test_corner_by_hand():
    h = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
    ones = torch.ones(1, 1, 1, 3, 3, dtype=torch.float64)
    mixed = state_fusion(h, ones, ones.new_ones(1), dilations=(1,))
    # the border repeats: 4 cells of 1, 2 of 2, 2 of 3 and 1 of 4 around the corner
    assert mixed[0, 0, 0, 0] == 4 * 1 + 2 * 2 + 2 * 3 + 4


def test_channels_last_input_gives_the_same():
    h, kernels, alpha = make(9, 12)
    expected = state_fusion(h, kernels, alpha)
    last = h.contiguous(memory_format=torch.channels_last)
    assert_equal_in_double(state_fusion(last, kernels, alpha), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_result_is_float32_under_autocast(dtype):
    h, kernels, alpha = make(8, 6, dtype=torch.float32)
    expected = state_fusion(h.to(dtype).float(), kernels, alpha)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = state_fusion(h.to(dtype), kernels, alpha)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, expected)


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
        (0, (2, 3, 4, 0), 'no zero'),
        (1, (3, 4, 1, 3, 3), r'expected \(K=3, C=3, 1, 3, 3\)'),
        (2, (2,), r'alpha has shape \(2,\); expected \(3,\)'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = list(make(4, 5))
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        state_fusion(*inputs)


def test_bad_dilation_is_named():
    with pytest.raises(ValueError, match=r'dilations are \(1, 0, 5\)'):
        state_fusion(*make(4, 5), dilations=(1, 0, 5))


def test_operator_is_registered_soundly():
    h, kernels, alpha = make(4, 6)
    taps = shared_border.scaled_taps(kernels, alpha).detach().requires_grad_()
    inputs = (h, None, None, None, taps, [1, 3, 5])
    opcheck(shared_border._observe.operator, inputs)


def test_parameters_in_lower_precision_are_multiplied_in_float32():
    inputs = make(7, 9, dtype=torch.bfloat16)
    exact = with_grads([v.detach().double().requires_grad_() for v in inputs], 'naive')
    fast, naive = (with_grads(inputs, b) for b in ('shared_border', 'naive'))
    assert fast[0].dtype == torch.float32
    for values in zip(fast, naive, exact, strict=True):
        assert_as_exact_as_naive(*values)
