"""The norm's kernels equal its definition, however the work is divided."""

import pytest
import torch
from kernels import double, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import channel_norm

kernels = kernels_of('norm')
NAMES = ('y', 'x', 'weight', 'bias')


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles for each program of the adjoint."""
    monkeypatch.setattr(kernels, 'TILE', 64)
    monkeypatch.setattr(kernels, 'PROGRAMS', 6)


def make(shape, dtypes=(torch.float64,) * 3):
    randn = generator_of(sum(shape))
    values = [randn(*s) + 0.5 for s in (shape, shape[1:2], shape[1:2])]
    return [v.to(t).requires_grad_() for v, t in zip(values, dtypes, strict=True)]


def with_grads(inputs, backend, eps=1e-3):
    y = channel_norm(*inputs, eps, backend=backend)
    return dict(zip(NAMES, (y, *gradients(y, inputs)), strict=True))


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize(
    'shape', [(2, 6, 5, 7), (1, 2, 3, 2), (1, 33, 1, 1), (1, 96, 3, 3)]
)
def test_kernels_equal_naive(shape, last):
    x, *weights = make(shape)
    if last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    fast, naive = (with_grads([x, *weights], b) for b in ('triton', 'naive'))
    assert fast['y'].is_contiguous(memory_format=torch.channels_last)
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


def test_positions_beyond_the_map_add_nothing_without_eps():
    inputs = make((1, 6, 3, 3))
    fast, naive = (with_grads(inputs, b, 0.0) for b in ('triton', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('low', [torch.float32, torch.bfloat16])
def test_kernels_are_as_exact_in_lower_precision(low):
    inputs = make((2, 24, 5, 7), (low, torch.float32, torch.float32))
    exact = with_grads(double(inputs), 'naive')
    fast, naive = (with_grads(inputs, b) for b in ('triton', 'naive'))
    for name in NAMES:
        assert fast[name].dtype == naive[name].dtype
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


def test_operators_are_registered_soundly():
    opcheck(torch.ops.mmssm.channel_norm_triton, (*make((1, 5, 3, 2)), 1e-5))
