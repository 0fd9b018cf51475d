"""The observation's kernels equal its formula, written with the plain state fusion."""

import pytest
import torch
from kernels import double, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import state_fusion

observation = fusion = kernels_of('fusion')
NAMES = ('y', 'h', 'C', 'u', 'D', 'kernels', 'alpha')
CASES = [
    ((7, 9), (1, 3)),
    ((14, 14), (1,)),
    ((1, 1), (1, 3, 5)),
    ((1, 8), (4, 1)),
    ((3, 2), (3,)),
]


@pytest.fixture
def small_patches(monkeypatch):
    """Patches inside the map and on each border, two blocks of channels, long runs."""
    monkeypatch.setattr(fusion, 'PATCH', (4, 4))
    monkeypatch.setattr(fusion, 'TILE', 32)
    monkeypatch.setattr(fusion, 'PROGRAMS', 8)


def make(height, width, dilations, dtype=torch.float64):
    randn = generator_of(height * width)
    maps, count = (2, 3, height, width), len(dilations)
    values = (
        randn(*maps),
        randn(2, 1, height, width),
        randn(*maps),
        randn(3),
        randn(count, 3, 1, 3, 3),
        randn(count),
    )
    return [v.to(dtype).requires_grad_() for v in values]


def formula(h, C, u, D, kernels, alpha, dilations):
    fused = state_fusion(h, kernels, alpha, dilations=dilations, backend='naive')
    return C * fused + D[:, None, None] * u


def with_grads(function, inputs, dilations):
    y = function(*inputs, dilations)
    return dict(zip(NAMES, (y, *gradients(y, inputs)), strict=True))


def assert_kernels_equal_formula(inputs, dilations):
    fast, plain = (
        with_grads(f, inputs, dilations) for f in (observation.observe_triton, formula)
    )
    for name, expected in plain.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize(('size', 'dilations'), CASES)
def test_kernels_equal_the_formula(size, dilations):
    assert_kernels_equal_formula(make(*size, dilations), dilations)


@pytest.mark.usefixtures('small_patches')
def test_kernels_equal_the_formula_in_small_patches():
    inputs = make(9, 6, (2,))
    assert fusion.patches(inputs[0]).blocks == 2
    assert fusion.runs(inputs[0])[1] > 1
    assert_kernels_equal_formula(inputs, (2,))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_kernels_are_as_exact_in_lower_precision(monkeypatch, dtype):
    # the interpreter adds the cells of a patch one by one, a GPU in a tree
    monkeypatch.setattr(fusion, 'PATCH', (2, 8))
    inputs = make(7, 11, (2,), torch.float32)
    for k in (2,):
        inputs[k] = inputs[k].detach().to(dtype).requires_grad_()
    fast = with_grads(observation.observe_triton, inputs, (2,))
    plain, exact = (
        with_grads(formula, values, (2,)) for values in (inputs, double(inputs))
    )
    assert fast['y'].dtype == torch.float32
    for name, expected in exact.items():
        assert fast[name].dtype == plain[name].dtype
        assert_as_exact_as_naive(fast[name], plain[name], expected, name)


def test_memory_layout_does_not_matter():
    inputs = make(4, 5, (2,))
    expected = with_grads(observation.observe_triton, inputs, (2,))
    turned = []
    for t in inputs:
        order = range(t.dim())
        back = t.detach().permute(*reversed(order)).repeat_interleave(2, 0)[::2]
        turned.append(back.permute(*reversed(order)).requires_grad_())
    actual = with_grads(observation.observe_triton, turned, (2,))
    for name in NAMES:
        assert torch.equal(actual[name], expected[name])


def test_operators_are_registered_soundly():
    h, *others = make(3, 2, (1,))
    last = h.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    opcheck(torch.ops.mmssm.observe_triton, (last, *others, [1]))


def test_compiled_code_keeps_the_operators_whole():
    inputs = make(4, 3, (1,))
    compiled = torch.compile(
        lambda *given: observation.observe_triton(*given, (1,)),
        backend='aot_eager',
        fullgraph=True,
    )
    actual = with_grads(lambda *given: compiled(*given[:-1]), inputs, (1,))
    for name, expected in with_grads(formula, inputs, (1,)).items():
        assert_equal_in_double(actual[name], expected, name)
