"""Every form of the scan in four directions equals its definition."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import cross_scan, dispatch, selective_scan
from mmssm.ops.cross_scan import lines, sequences

NAMES = ('y', 'u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')
SHAPES = [  # (B, D, N, H, W): odd, a row, a column, one position, several states
    (2, 5, 1, 5, 7),
    (1, 3, 1, 1, 6),
    (1, 3, 2, 6, 1),
    (2, 2, 1, 1, 1),
    (1, 4, 3, 4, 3),
    (1, 6, 1, 2, 19),
]


def make(shape, dtype=torch.float64, decay=1.0):
    B, D, N, *size = shape
    generator = torch.Generator().manual_seed(sum(shape))
    randn = partial(torch.randn, generator=generator, dtype=torch.float64)
    values = (
        randn(B, D, *size),
        4 * randn(B, 4, D, *size),
        -decay * torch.exp(randn(4, D, N)),
        randn(B, 4, N, *size),
        randn(B, 4, N, *size),
        randn(4, D),
        randn(4, D),
    )
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, backend):
    y = cross_scan(*inputs, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(y, inputs, cotangent.to(y.dtype))
    return dict(zip(NAMES, (y, *grads), strict=True))


@pytest.mark.parametrize('backend', ['lines', 'sequences'])
@pytest.mark.parametrize('decay', [1.0, 1e-6, 1e6])
@pytest.mark.parametrize('shape', SHAPES)
def test_every_form_equals_naive(shape, decay, backend):
    inputs = make(shape, decay=decay)
    fast, naive = (with_grads(inputs, b) for b in (backend, 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('backend', ['lines', 'sequences'])
@pytest.mark.parametrize('shape', SHAPES)
def test_every_form_is_as_exact_in_float32(shape, backend):
    single = make(shape, torch.float32)
    double = [v.detach().double().requires_grad_() for v in single]
    exact = with_grads(double, 'naive')
    fast, naive = (with_grads(single, b) for b in (backend, 'naive'))
    for name in NAMES:
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


@pytest.mark.parametrize('block', [1, 7, 64])
def test_blocks_of_any_size_give_the_same(block, monkeypatch):
    inputs = make((2, 5, 2, 5, 7))
    whole = with_grads(inputs, 'lines')
    monkeypatch.setattr(lines, 'BLOCK', block)
    for name, value in with_grads(inputs, 'lines').items():
        assert_equal_in_double(value, whole[name], name)


def test_gradients_against_finite_differences():
    assert torch.autograd.gradcheck(cross_scan, make((1, 2, 2, 2, 3)))


def test_each_direction_by_the_scan_of_one_sequence():
    u, delta, A, B, C, D, bias = (t.detach() for t in make((2, 3, 2, 4, 5)))
    positions = torch.arange(20).reshape(4, 5)
    orders = positions.flatten(), positions.T.flatten()
    orders = *orders, *(order.flip(0) for order in orders)
    for k, order in enumerate(orders):
        only = torch.zeros(4, dtype=torch.float64)
        only[k] = 1  # the others observe nothing and skip nothing
        y = cross_scan(
            u, delta, A, B, C * only[:, None, None, None], D * only[:, None], bias
        )
        states = selective_scan(
            u.flatten(2)[..., order],
            delta[:, k].flatten(2)[..., order],
            A[k],
            B[:, k].flatten(2)[..., order],
            bias[k],
        )
        observed = (states * C[:, k].flatten(2)[..., order].unsqueeze(1)).sum(2)
        expected = observed + D[k][:, None] * u.flatten(2)[..., order]
        assert_equal_in_double(y.flatten(2)[..., order], expected, f'direction {k}')


def test_two_by_two_by_hand():
    """Steps and inputs of one, decay a half, observed with weights 1, 10, 100, 1000."""
    one = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    ln2 = torch.log(one.new_tensor(2.0))
    delta = torch.log(torch.expm1(one)).unsqueeze(1).expand(1, 4, 1, 2, 2)
    C = one.new_tensor([1, 10, 100, 1000])[:, None, None, None].expand(1, 4, 1, 2, 2)
    y = cross_scan(
        torch.tensor([[[[1.0, 2], [4, 8]]]], dtype=torch.float64),
        delta,
        -ln2.expand(4, 1, 1),
        one.unsqueeze(1).expand(1, 4, 1, 2, 2),
        C,
        one.new_zeros(4, 1),
    )
    rows = [[1, 2.5], [5.25, 10.625]]
    columns = [[1, 4.25], [4.5, 10.125]]
    rows_back = [[1 + 2 / 2 + 4 / 4 + 8 / 8, 2 + 4 / 2 + 8 / 4], [4 + 8 / 2, 8]]
    columns_back = [[1 + 4 / 2 + 2 / 4 + 8 / 8, 2 + 8 / 2], [4 + 2 / 2 + 8 / 4, 8]]
    expected = sum(
        weight * torch.tensor(values, dtype=torch.float64)
        for weight, values in (
            (1, rows),
            (10, columns),
            (100, rows_back),
            (1000, columns_back),
        )
    )
    assert_equal_in_double(y[0, 0], expected)


def test_turning_the_map_swaps_the_directions():
    """y of the map seen from behind, with the directions in the order 2, 3, 0, 1."""
    u, delta, A, B, C, D, bias = (t.detach() for t in make((1, 3, 2, 4, 5)))
    turned = [t.flip(-2, -1) for t in (u, delta, B, C)]
    u_turned, *maps = turned
    delta_turned, B_turned, C_turned = (t.roll(2, 1) for t in maps)
    y = cross_scan(
        u_turned,
        delta_turned,
        A.roll(2, 0),
        B_turned,
        C_turned,
        D.roll(2, 0),
        bias.roll(2, 0),
    )
    expected = cross_scan(u, delta, A, B, C, D, bias)
    assert_equal_in_double(y.flip(-2, -1), expected)


def test_memory_layout_and_no_bias_do_not_matter():
    u, delta, A, B, C, D, _ = (t.detach() for t in make((2, 6, 1, 5, 7)))
    zero = torch.zeros_like(D)
    expected = cross_scan(u, delta, A, B, C, D, zero)
    last = u.contiguous(memory_format=torch.channels_last)
    planes = delta.permute(1, 0, 3, 4, 2).contiguous().permute(1, 0, 4, 2, 3)
    assert torch.equal(cross_scan(last, planes, A, B, C, D), expected)
    assert expected.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('backend', ['lines', 'sequences'])
def test_float32_under_autocast(backend):
    u, *rest = make((1, 4, 1, 6, 5), torch.float32)
    expected = cross_scan(u.bfloat16(), *rest, backend=backend)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = cross_scan(u.bfloat16(), *rest, backend=backend)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)


def test_long_strong_decay_stays_finite():
    inputs = make((1, 2, 1, 60, 90), torch.float32, decay=1e8)
    assert all(value.isfinite().all() for value in with_grads(inputs, None).values())


def test_the_adjoint_keeps_the_inputs_alone():
    inputs = make((1, 8, 1, 20, 30), torch.float32)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t.nbytes) and t,
        lambda t: t,
    ):
        cross_scan(*inputs)
    assert 0 < sum(saved.values()) <= sum(t.nbytes for t in inputs)


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 6, 4), r'u has shape \(2, 6, 4\); expected \(B, D, H, W\)'),
        (0, (2, 6, 0, 4), 'no zero'),
        (1, (2, 6, 3, 4), r'delta has shape .* expected \(2, 4, 6, 3, 4\)'),
        (2, (6, 1), r'A has shape \(6, 1\); expected \(4, 6, N\)'),
        (3, (2, 4, 2, 3, 4), r'B has shape .* expected \(2, 4, 1, 3, 4\)'),
        (4, (2, 4, 1, 4, 3), r'C has shape .* expected \(2, 4, 1, 3, 4\)'),
        (5, (24,), r'D has shape \(24,\); expected \(4, 6\)'),
        (6, (6,), r'delta_bias has shape \(6,\); expected \(4, 6\)'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = list(make((2, 6, 1, 3, 4)))
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        cross_scan(*inputs)


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend 'cuda'; expected None or one of"):
        cross_scan(*make((1, 1, 1, 2, 2)), backend='cuda')


def test_on_a_gpu_the_kernels_of_the_selective_scan_do_the_work():
    chosen = dispatch.choose('cross_scan', None, SimpleNamespace(is_cuda=True))
    assert chosen is sequences.cross_scan_sequences
    chosen = dispatch.choose('cross_scan', None, SimpleNamespace(is_cuda=False))
    assert chosen is not sequences.cross_scan_sequences


def test_operator_is_registered_soundly():
    u, delta, A, B, C, *rest = (t.detach() for t in make((2, 3, 2, 2, 3)))
    planes = [delta.permute(1, 0, 3, 4, 2)]
    planes += [t.permute(1, 2, 0, 3, 4) for t in (B, C)]
    inputs = (u.permute(0, 2, 3, 1), planes[0], A, *planes[1:], *rest)
    opcheck(lines._scan.operator, tuple(t.requires_grad_() for t in inputs))
