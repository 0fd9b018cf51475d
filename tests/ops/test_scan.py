"""Every form of the selective scan equals its definition and the official values."""

from functools import partial

import golden
import pytest
import torch
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch.library import opcheck

from mmssm.ops import selective_scan
from mmssm.ops.scan import tree
from mmssm.ops.scan.tree import scan_

NAMES = ('u', 'delta', 'A', 'B', 'delta_bias')
SHAPES = [  # (B, D, N, G, L): primes, squares, one position, several groups
    (2, 6, 1, 1, 37),
    (1, 4, 3, 1, 36),
    (2, 8, 2, 4, 131),
    (1, 3, 1, 1, 1),
    (1, 2, 1, 1, 2),
    (1, 2, 2, 2, 630),
]


def make(shape, dtype=torch.float64, decay=1.0):
    B, D, N, G, L = shape
    generator = torch.Generator().manual_seed(sum(shape))
    randn = partial(torch.randn, generator=generator, dtype=torch.float64)
    A = -decay * torch.exp(randn(D, N))
    values = (randn(B, D, L), 4 * randn(B, D, L), A, randn(B, G, N, L), randn(D))
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, backend):
    states = selective_scan(*inputs, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(states, inputs, cotangent.to(states.dtype))
    return dict(zip(('states', *NAMES), (states, *grads), strict=True))


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('decay', [1.0, 1e-6, 1e6])
def test_tree_equals_naive(shape, decay):
    inputs = make(shape, decay=decay)
    fast, naive = (with_grads(inputs, b) for b in ('tree', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.parametrize('shape', SHAPES)
def test_tree_is_as_exact_in_float32(shape):
    single = make(shape, torch.float32)
    double = [v.detach().double().requires_grad_() for v in single]
    exact = with_grads(double, 'naive')
    fast, naive = (with_grads(single, b) for b in ('tree', 'naive'))
    for name in exact:
        assert_as_exact_as_naive(fast[name], naive[name], exact[name], name)


@pytest.mark.parametrize('backend', ['tree', 'naive'])
def test_official_values_and_gradients(backend):
    data = golden.load('spatial_mamba_ops')
    cases = {key.split('/')[0] for key in data if key.startswith('scan')}
    assert len(cases) == 4
    for case in cases:
        inputs = [data[f'{case}/{n}'].double().requires_grad_() for n in NAMES]
        states = selective_scan(*inputs, backend=backend)
        assert_equal_in_double(states, data[f'{case}/out'], case)
        grads = torch.autograd.grad(states, inputs, data[f'{case}/cot'].double())
        for name, grad in zip(NAMES, grads, strict=True):
            if data[f'{case}/grad_{name}'].any():
                assert_equal_in_double(grad, data[f'{case}/grad_{name}'], case + name)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('backend', ['tree', 'naive'])
def test_a_step_of_low_rank_is_its_product(shape, backend):
    u, delta, A, B, bias = make(shape)
    step, weight = delta[:, :1].detach(), torch.linspace(-1, 1, 2 * len(bias))
    step = torch.cat([step, step.flip(2)], 1).requires_grad_()  # (B, 2, L)
    weight = weight.double().view(-1, 2).requires_grad_()
    inputs = (u, step, A, B, bias, weight)
    states = selective_scan(*inputs[:5], delta_weight=weight, backend=backend)
    expected = selective_scan(u, weight @ step, A, B, bias, backend='naive')
    assert_equal_in_double(states, expected, backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    found, right = (
        torch.autograd.grad(h, inputs, cotangent) for h in (states, expected)
    )
    for name, grad, wanted in zip((*NAMES, 'weight'), found, right, strict=True):
        assert_equal_in_double(grad, wanted, name)


def test_low_precision_is_kept_as_it_came_and_computed_in_float32():
    u, delta, A, B, bias = make((2, 6, 1, 1, 37), torch.float32)
    low = [t.detach().bfloat16().requires_grad_() for t in (u, delta, B)]
    kept = []

    def keep(tensor):
        kept.append(tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = selective_scan(low[0], low[1], A, low[2], bias, backend='tree')
    assert kept.count(torch.bfloat16) == 3
    wide = [t.detach().float().requires_grad_() for t in low]
    expected = selective_scan(wide[0], wide[1], A, wide[2], bias, backend='tree')
    assert states.dtype == torch.float32
    assert torch.equal(states, expected)
    found = torch.autograd.grad(states.square().sum(), low)
    right = torch.autograd.grad(expected.square().sum(), wide)
    for grad, wanted in zip(found, right, strict=True):
        assert torch.equal(grad, wanted.bfloat16())


def test_three_steps_by_hand():
    ln2 = torch.log(torch.tensor(2.0, dtype=torch.float64))
    delta = torch.log(torch.expm1(ln2)).expand(1, 1, 3)  # softplus(delta) = ln 2
    u = torch.tensor([[[1.0, 0.0, 4.0]]], dtype=torch.float64) / ln2
    one = torch.ones(1, 1, dtype=torch.float64)
    states = selective_scan(u, delta, -one, one[:, None].expand(1, 1, 3))
    expected = torch.tensor([1.0, 0.5, 4.25], dtype=torch.float64)
    assert_equal_in_double(states.flatten(), expected)


def test_gradients_against_finite_differences():
    inputs = make((2, 4, 2, 2, 11))
    assert torch.autograd.gradcheck(selective_scan, inputs)


def test_memory_layout_does_not_matter():
    u, delta, A, B, bias = make((2, 6, 1, 1, 35))
    expected = selective_scan(u, delta, A, B, bias)
    last = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (u, delta)]
    assert torch.equal(selective_scan(*last, A, B, bias), expected)
    assert torch.equal(selective_scan(u, delta, A, B.squeeze(1), bias), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_states_are_float32_under_autocast(dtype):
    u, delta, A, B, bias = make((1, 4, 1, 1, 50), torch.float32)
    expected = selective_scan(u.to(dtype), delta, A, B, bias)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        states = selective_scan(u.to(dtype), delta, A, B, bias)
    assert states.dtype == torch.float32
    assert torch.equal(states, expected)


def test_long_strong_decay_stays_finite():
    u, delta, A, B, bias = make((1, 2, 1, 1, 9000), torch.float32, decay=1e8)
    with torch.no_grad():
        assert selective_scan(u, delta, A, B, bias).isfinite().all()


@pytest.mark.parametrize('backward', [False, True])
def test_recurrence_at_every_small_length(backward):
    generator = torch.Generator().manual_seed(0)
    for length in [*range(1, 40), 63, 64, 65]:
        x = torch.randn(2, length, 3, generator=generator, dtype=torch.float64)
        decay = torch.rand(2, length, 3, generator=generator, dtype=torch.float64)
        expected = x.clone()
        for t in reversed(range(length - 1)) if backward else range(1, length):
            s = t + 1 if backward else t - 1
            expected[:, t] += decay[:, t] * expected[:, s]
        rates = decay[:, : length - 1] if backward else decay
        scan_(rates.clone(), x, backward=backward)
        assert_equal_in_double(x, expected, str(length))


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 6), r'u has shape \(2, 6\)'),
        (0, (2, 6, 0), 'no zero'),
        (1, (2, 6, 7), r'delta has shape .* expected \(2, 6, 8\)'),
        (2, (5, 1), r'A has shape .* expected \(D=6, N\)'),
        (3, (2, 4, 1, 8), 'G a divisor of D=6'),
        (4, (5,), r'delta_bias has shape \(5,\); expected \(D=6,\)'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = list(make((2, 6, 1, 1, 8)))
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        selective_scan(*inputs)


@pytest.mark.parametrize(
    ('weight', 'delta', 'words'),
    [
        ((5, 2), (2, 2, 8), r'delta_weight has shape \(5, 2\); expected \(D=6, R=2\)'),
        ((6, 2), (2, 3, 8), r'delta_weight has shape .* expected \(D=6, R=3\)'),
        ((6, 2), (2, 2, 7), r'delta has shape .* expected \(2, 2, 8\)'),
    ],
)
def test_bad_shapes_of_low_rank_are_named(weight, delta, words):
    u, _, A, B, bias = make((2, 6, 1, 1, 8))
    with pytest.raises(ValueError, match=words):
        selective_scan(
            u, torch.zeros(delta), A, B, bias, delta_weight=torch.ones(weight)
        )


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend 'cuda'; expected None or one of"):
        selective_scan(*make((1, 1, 1, 1, 3)), backend='cuda')


def test_states_grow_with_positions_only_through_the_past():
    u, delta, A, B, bias = make((1, 3, 1, 1, 40))
    cut = [t[..., :23] for t in (u, delta)]
    whole = selective_scan(u, delta, A, B, bias)[..., :23]
    assert_equal_in_double(selective_scan(*cut, A, B[..., :23], bias), whole)


def test_operator_is_registered_soundly():
    u, delta, A, B, delta_bias = make((2, 4, 2, 2, 5))
    rows = [t.detach().transpose(1, 2).requires_grad_() for t in (u, delta)]
    B = B.detach().permute(0, 3, 1, 2).requires_grad_()
    opcheck(tree._scan.operator, (*rows, A, B, delta_bias))
    u, delta, A, B, delta_bias = make((1, 1, 3, 1, 5))  # strides of B would show
    opcheck(tree._scan.operator, (u.mT, delta.mT, A, B.permute(0, 3, 1, 2), delta_bias))
