"""The observation's kernels equal its formula, written with the plain state fusion."""

import pytest
import torch
from kernels import double, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import observe, state_fusion

fusion = kernels_of('fusion')
NAMES = ('y', 'h', 'C', 'u', 'D', 'kernels', 'alpha')
CASES = [
    ((7, 9), (1, 3)),
    ((14, 14), (1,)),
    ((1, 1), (1, 3, 5)),
    ((1, 8), (4, 1)),
    ((3, 2), (3,)),
    ((1, 7), (1, 3)),
    ((20, 17), (5,)),
]


@pytest.fixture
def small_patches(monkeypatch):
    """Tiles inside the map and on each border, two blocks of channels, long runs."""
    monkeypatch.setattr(fusion, 'COLUMNS', 4)
    monkeypatch.setattr(fusion, 'CHANNELS', 2)
    monkeypatch.setattr(fusion, 'CHANNELS_FORWARD', 2)
    monkeypatch.setattr(fusion, 'ROWS', 4)
    monkeypatch.setattr(fusion, 'PROGRAMS', 4)


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


def kernels(h, C, u, D, kernels, alpha, dilations, dtype=None):
    inputs = (h, C, u, D, kernels, alpha)
    return observe(*inputs, dilations=dilations, backend='triton', dtype=dtype)


def parameters(randn, channels=64, count=1):
    """D, kernels, alpha."""
    return randn(channels), randn(count, channels, 1, 3, 3), randn(count)


def formula(h, C, u, D, kernels, alpha, dilations):
    fused = state_fusion(h, kernels, alpha, dilations=dilations, backend='naive')
    return C * fused + D[:, None, None] * u


def with_grads(function, inputs, dilations):
    y = function(*inputs, dilations)
    return dict(zip(NAMES, (y, *gradients(y, inputs)), strict=True))


def assert_kernels_equal_formula(inputs, dilations):
    fast, plain = (with_grads(f, inputs, dilations) for f in (kernels, formula))
    for name, expected in plain.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize(('size', 'dilations'), CASES)
def test_kernels_equal_the_formula(size, dilations):
    assert_kernels_equal_formula(make(*size, dilations), dilations)


@pytest.mark.usefixtures('small_patches')
def test_kernels_equal_the_formula_in_small_patches():
    inputs = make(9, 6, (2,))
    assert fusion.walk(inputs[0]).blocks == 2
    assert fusion.runs(inputs[0])[1] > 1
    assert_kernels_equal_formula(inputs, (2,))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_kernels_are_as_exact_in_lower_precision(monkeypatch, dtype):
    # a program adds its rows one by one
    monkeypatch.setattr(fusion, 'ROWS', 4)
    inputs = make(7, 11, (2,), torch.float32)
    for k in (2,):
        inputs[k] = inputs[k].detach().to(dtype).requires_grad_()
    fast = with_grads(kernels, inputs, (2,))
    plain, exact = (
        with_grads(formula, values, (2,)) for values in (inputs, double(inputs))
    )
    assert fast['y'].dtype == torch.float32
    for name, expected in exact.items():
        assert fast[name].dtype == plain[name].dtype
        assert_as_exact_as_naive(fast[name], plain[name], expected, name)


def test_kernels_are_as_exact_on_the_maps_of_a_network(monkeypatch):
    # columns are one step of the interpreter, which adds them one by one
    monkeypatch.setattr(fusion, 'COLUMNS', 16)
    randn = generator_of(0)
    h, u = randn(2, 1, 64, 24, 40)
    projected = randn(1, 24, 40, 6).bfloat16()
    C = projected[..., -1:].permute(0, 3, 1, 2).detach()
    values = (h.float(), C, u.bfloat16(), *map(torch.Tensor.float, parameters(randn)))
    inputs = [v.detach().requires_grad_() for v in values]
    fast = with_grads(kernels, inputs, (3,))
    plain, exact = (
        with_grads(formula, values, (3,)) for values in (inputs, double(inputs))
    )
    for name, expected in exact.items():
        assert fast[name].dtype == plain[name].dtype
        assert_as_exact_as_naive(fast[name], plain[name], expected, name)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_result_is_rounded_once_to_the_dtype_asked_for(dtype):
    inputs = make(3, 5, (1,), torch.float32)
    wide = kernels(*inputs, (1,))
    y = kernels(*inputs, (1,), dtype)
    assert y.dtype == dtype
    assert_as_exact_as_naive(y, wide.to(dtype), wide)  # the interpreter truncates
    cotangent = torch.ones_like(y) / 3
    found = torch.autograd.grad(y, inputs, cotangent)
    expected = torch.autograd.grad(wide, inputs, cotangent.float())
    for pair in zip(found, expected, strict=True):
        assert torch.equal(*pair)


@pytest.mark.parametrize('wanted', [(0,), (1, 3), (2, 4, 5)])
def test_gradients_of_any_subset(wanted):
    inputs = make(3, 4, (1,))
    plain = with_grads(formula, inputs, (1,))
    for k, value in enumerate(inputs):
        value.requires_grad_(k in wanted)
    y = kernels(*inputs, (1,))
    found = gradients(y, [inputs[k] for k in wanted])
    for k, grad in zip(wanted, found, strict=True):
        assert_equal_in_double(grad, plain[NAMES[k + 1]])


def test_observation_may_be_a_slice_or_one_number_for_all():
    inputs = make(4, 5, (2,))
    h, C, *others = inputs
    projected = torch.cat([C.detach(), C.detach() + 1, C.detach()], 1)
    rows = projected.permute(0, 2, 3, 1).contiguous()
    sliced = rows[..., -1:].permute(0, 3, 1, 2).requires_grad_()
    expected = with_grads(kernels, inputs, (2,))
    actual = with_grads(kernels, [h, sliced, *others], (2,))
    for name in NAMES:
        assert torch.equal(actual[name], expected[name])
    one = C.detach()[:1, :, :1, :1].expand(C.shape).requires_grad_()
    assert_kernels_equal_formula([h, one, *others], (2,))


def test_a_second_derivative_is_refused():
    inputs = make(3, 2, (1,))
    y = kernels(*inputs, (1,))
    (grad,) = torch.autograd.grad(y.sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match='observe_triton has no second'):
        (y.sum() + grad.square().sum()).backward()


def test_memory_layout_does_not_matter():
    inputs = make(4, 5, (2,))
    expected = with_grads(kernels, inputs, (2,))
    turned = []
    for t in inputs:
        order = range(t.dim())
        back = t.detach().permute(*reversed(order)).repeat_interleave(2, 0)[::2]
        turned.append(back.permute(*reversed(order)).requires_grad_())
    actual = with_grads(kernels, turned, (2,))
    for name in NAMES:
        assert torch.equal(actual[name], expected[name])


def test_operators_are_registered_soundly():
    h, *others = make(3, 2, (1,))
    last = h.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    opcheck(torch.ops.mmssm.observe_triton, (last, *others, [1], torch.float64))


def test_compiled_code_keeps_the_operators_whole():
    inputs = make(4, 3, (1,))
    compiled = torch.compile(
        lambda *given: kernels(*given, (1,)),
        backend='aot_eager',
        fullgraph=True,
    )
    actual = with_grads(lambda *given: compiled(*given[:-1]), inputs, (1,))
    for name, expected in with_grads(formula, inputs, (1,)).items():
        assert_equal_in_double(actual[name], expected, name)
