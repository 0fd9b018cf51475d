"""The depthwise convolution's kernels equal its definition at any division."""

import pytest
import torch
from kernels import double, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import depthwise_conv

kernels = kernels_of('depthwise')
NAMES = ('y', 'x', 'weight', 'bias')
FORMS = [(None, True), ('silu', False), ('silu', True)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several bands, patches across and blocks of channels."""
    for name, value in {'COLUMNS': 4, 'CHANNELS': 2, 'PROGRAMS': 8}.items():
        monkeypatch.setattr(kernels, name, value)


def make(shape, dtypes=(torch.float64,) * 3):
    randn = generator_of(sum(shape))
    sizes = (shape, (shape[1], 1, 3, 3), shape[1:2])
    values = [randn(*s) for s in sizes]
    return [v.to(t).requires_grad_() for v, t in zip(values, dtypes, strict=True)]


def with_grads(inputs, form, backend):
    activation, residual = form
    y = depthwise_conv(
        *inputs, activation=activation, residual=residual, backend=backend
    )
    return dict(zip(NAMES, (y, *gradients(y, inputs)), strict=True))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('shape', [(1, 3, 9, 7), (2, 1, 1, 1)])
def test_kernels_equal_naive(shape, form):
    inputs = make(shape)
    fast, naive = (with_grads(inputs, form, b) for b in ('triton', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('low', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('form', FORMS[:2])
def test_kernels_are_as_exact_in_lower_precision(form, low):
    inputs = make((1, 3, 9, 7), (low, torch.float32, torch.float32))
    exact = with_grads(double(inputs), form, 'naive')
    fast, naive = (with_grads(inputs, form, b) for b in ('triton', 'naive'))
    for name in NAMES:
        assert fast[name].dtype == naive[name].dtype
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


def test_operators_are_registered_soundly():
    x, weight, bias = make((1, 2, 3, 2))
    opcheck(torch.ops.mmssm.depthwise_triton, (x, weight, bias, True, True))
