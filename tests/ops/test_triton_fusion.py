"""The fusion's kernels equal its definition on every map, whatever the patches."""

import pytest
import torch
from kernels import DEVICE, double, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import dispatch, state_fusion

fusion = kernels_of('fusion')
CASES = [
    ((7, 9), (1, 3, 5)),
    ((14, 14), (1, 3)),
    ((1, 1), (1, 3, 5)),
    ((1, 8), (4, 1)),
    ((3, 2), (1, 3)),
    ((13, 5), (2,)),
    ((3, 5), (1, 40)),
]


@pytest.fixture
def small_patches(monkeypatch):
    """Tiles inside the map and on each border, two blocks of channels, long runs."""
    monkeypatch.setattr(fusion, 'COLUMNS', 4)
    monkeypatch.setattr(fusion, 'CHANNELS', 2)
    monkeypatch.setattr(fusion, 'CHANNELS_FORWARD', 2)
    monkeypatch.setattr(fusion, 'ROWS', 4)
    monkeypatch.setattr(fusion, 'PROGRAMS', 4)


def make(height, width, dilations=(1, 3, 5), dtype=torch.float64):
    randn = generator_of(height * width)
    count = len(dilations)
    values = (randn(2, 3, height, width), randn(count, 3, 1, 3, 3), randn(count))
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, backend, dilations=(1, 3, 5)):
    mixed = state_fusion(*inputs, dilations=dilations, backend=backend)
    return mixed, *gradients(mixed, inputs)


def assert_kernels_equal_naive(inputs, dilations=(1, 3, 5)):
    results = (with_grads(inputs, b, dilations) for b in ('triton', 'naive'))
    for pair in zip(*results, strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.parametrize(('size', 'dilations'), CASES)
def test_kernels_equal_naive(size, dilations):
    assert_kernels_equal_naive(make(*size, dilations), dilations)


@pytest.mark.usefixtures('small_patches')
@pytest.mark.parametrize(('size', 'dilations'), [((9, 9), (2,)), ((9, 4), (3,))])
def test_kernels_equal_naive_in_small_patches(size, dilations):
    inputs = make(*size, dilations)
    plan, (count, each) = fusion.walk(inputs[0]), fusion.runs(inputs[0])
    assert plan.bands > 1
    assert plan.blocks == 2
    assert count > 1
    assert each > 1
    assert_kernels_equal_naive(inputs, dilations)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_are_as_exact_in_lower_precision(monkeypatch, dtype):
    # a program adds its rows one by one
    monkeypatch.setattr(fusion, 'ROWS', 4)
    inputs = make(7, 11, (2,), torch.float32)
    inputs[0] = inputs[0].detach().to(dtype).requires_grad_()
    results = [
        with_grads(*case)
        for case in (
            (inputs, 'triton', (2,)),
            (inputs, 'naive', (2,)),
            (double(inputs), 'naive', (2,)),
        )
    ]
    assert results[0][0].dtype == torch.float32
    assert results[0][1].dtype == dtype
    for triple in zip(*results, strict=True):
        assert_as_exact_as_naive(*triple)


def test_memory_layout_does_not_matter():
    h, kernels, alpha = make(4, 5, (1, 2))
    expected = with_grads([h, kernels, alpha], 'triton', (1, 2))
    last = h.detach().contiguous(memory_format=torch.channels_last)
    apart = h.detach().mT.repeat_interleave(2, dim=3)[..., ::2].mT
    for other in (last, apart):
        inputs = [other.requires_grad_(), kernels, alpha]
        for pair in zip(with_grads(inputs, 'triton', (1, 2)), expected, strict=True):
            assert torch.equal(*pair)
    mixed = state_fusion(last, kernels, alpha, dilations=(1, 2), backend='triton')
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    repeated = h.detach()[:, :, :1].expand_as(h).requires_grad_()
    inputs = [repeated, kernels.detach().mT.requires_grad_(), alpha]
    assert_kernels_equal_naive(inputs, (1, 2))
    summed = torch.autograd.grad(mixed.sum(), last)[0]  # a gradient of stride 0
    naive = state_fusion(last, kernels, alpha, dilations=(1, 2), backend='naive')
    assert_equal_in_double(summed, torch.autograd.grad(naive.sum(), last)[0])


@pytest.mark.usefixtures('small_patches')
def test_result_is_the_same_every_time():
    inputs = make(5, 6, (1,), torch.float32)
    results = (with_grads(inputs, 'triton', (1,)) for _ in range(2))
    for pair in zip(*results, strict=True):
        assert torch.equal(*pair)


def test_operators_are_registered_soundly():
    h, kernels, alpha = make(3, 2, (2,))
    last = h.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    opcheck(
        torch.ops.mmssm.observe_triton,
        (last, None, None, None, kernels, alpha, [2], torch.float64),
    )


def test_compiled_code_keeps_the_operators_whole():
    inputs = make(4, 3, (2,))
    compiled = torch.compile(
        lambda *given: state_fusion(*given, dilations=(2,), backend='triton'),
        backend='aot_eager',
        fullgraph=True,
    )
    mixed = compiled(*inputs)
    expected = with_grads(inputs, 'naive', (2,))
    for pair in zip((mixed, *gradients(mixed, inputs)), expected, strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.skipif(DEVICE == 'cuda', reason='a GPU prefers the kernels')
def test_a_cpu_takes_the_kernels_by_name_only(monkeypatch):
    inputs = make(2, 2)
    chosen = dispatch.choose('state_fusion', None, *inputs)
    assert chosen.__name__ == 'state_fusion_shared_border'
    monkeypatch.delenv('TRITON_INTERPRET')
    with pytest.raises(RuntimeError, match='triton: the inputs are on cpu; Triton run'):
        state_fusion(*inputs, backend='triton')
