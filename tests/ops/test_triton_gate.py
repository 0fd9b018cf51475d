"""The gated norm's kernels equal its definition, however the work is divided."""

import pytest
import torch
from kernels import double, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import gated_norm

gate = kernels_of('gate')
NAMES = ('out', 'y', 'z', 'weight', 'bias')


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles for each program of the adjoint."""
    monkeypatch.setattr(kernels_of('norm'), 'TILE', 64)  # they divide maps alike
    monkeypatch.setattr(gate, 'PROGRAMS', 6)


def make(shape, dtypes=(torch.float64,) * 4):
    randn = generator_of(sum(shape))
    sizes = (shape, shape, shape[1:2], shape[1:2])
    values = [randn(*s) + 0.5 for s in sizes]
    return [v.to(t).requires_grad_() for v, t in zip(values, dtypes, strict=True)]


def with_grads(inputs, backend):
    out = gated_norm(*inputs, 1e-3, backend=backend)
    return dict(zip(NAMES, (out, *gradients(out, inputs)), strict=True))


@pytest.mark.parametrize('shape', [(2, 6, 5, 7), (1, 2, 3, 2), (1, 33, 1, 1)])
def test_kernels_equal_naive(shape):
    inputs = make(shape)
    fast, naive = (with_grads(inputs, b) for b in ('triton', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('low', [torch.float32, torch.bfloat16])
def test_kernels_are_as_exact_in_lower_precision(low):
    inputs = make((2, 12, 5, 7), (low, low, torch.float32, torch.float32))
    exact = with_grads(double(inputs), 'naive')
    fast, naive = (with_grads(inputs, b) for b in ('triton', 'naive'))
    for name in NAMES:
        assert fast[name].dtype == naive[name].dtype
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


def test_operators_are_registered_soundly():
    opcheck(torch.ops.mmssm.gated_norm_triton, (*make((1, 5, 3, 2)), 1e-5))


def test_positions_beyond_the_map_add_nothing_without_eps():
    inputs = make((1, 6, 3, 3))
    out = [gated_norm(*inputs, 0.0, backend=b) for b in ('triton', 'naive')]
    for pair in zip(*(gradients(o, inputs) for o in out), strict=True):
        assert_equal_in_double(*pair)
