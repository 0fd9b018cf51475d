"""Every form of the separable attention is the same function of the same sums."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_as_exact_as_naive, assert_equal_in_double

from mmssm.ops import mixing_matrix, mixing_rank, separable_attention

FORMS = [
    ('elementwise', False),
    ('recurrent', False),
    ('recurrent', True),
    ('matrix', False),
    ('matrix', True),
]
SIZES = [(7, 9), (14, 14), (1, 1), (1, 8), (3, 2), (13, 5)]


def make(height, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * width)
    randn = partial(torch.randn, generator=generator, dtype=torch.float64)
    q, k = 4 * randn(2, 3, height, width), randn(2, 3, height, width)
    values = (q, k, randn(height, width), randn(()), randn(()))
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, backend, masked):
    y = separable_attention(*inputs, masked=masked, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return y, *torch.autograd.grad(y, inputs, cotangent.to(y.dtype))


@pytest.mark.parametrize(('backend', 'masked'), FORMS)
@pytest.mark.parametrize('size', SIZES)
def test_every_form_equals_naive(backend, masked, size):
    inputs = make(*size)
    naive = with_grads(inputs, 'naive', masked)
    for pair in zip(with_grads(inputs, backend, masked), naive, strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.parametrize(('backend', 'masked'), FORMS)
def test_every_form_is_as_exact_in_float32(backend, masked):
    single = make(9, 11, dtype=torch.float32)
    double = [v.detach().double().requires_grad_() for v in single]
    form, naive = (with_grads(single, b, masked) for b in (backend, 'naive'))
    exact = with_grads(double, 'naive', masked)
    for result in zip(form, naive, exact, strict=True):
        assert_as_exact_as_naive(*result)


def test_gradients_are_those_of_finite_differences():
    for masked in (False, True):
        inputs = make(2, 3)
        assert torch.autograd.gradcheck(
            partial(separable_attention, masked=masked), inputs
        )


def test_four_positions_by_hand():
    map_2x2 = partial(torch.tensor, dtype=torch.float64)
    # ReLU6 cuts 9 to 6 and -1 to 0, so that x = 6, 4, 0, 5
    q = map_2x2([[[[9.0, 2.0], [-1.0, 1.0]]]])
    k = map_2x2([[[[1.0, 2.0], [3.0, 5.0]]]])
    weight = map_2x2([[1.0, 10.0], [100.0, 1000.0]])
    alpha, beta = map_2x2(2.0), map_2x2(3.0)
    y = separable_attention(q, k, weight, alpha, beta)
    assert y.flatten().tolist() == [2 * 5046 + 3 * x for x in (6, 4, 0, 5)]
    y = separable_attention(q, k, weight, alpha, beta, masked=True)
    assert y.flatten().tolist() == [2 * 6 + 18, 2 * 46 + 12, 2 * 46, 2 * 5046 + 15]


def test_mask_hides_what_comes_later():
    q, k, weight, alpha, beta = make(5, 4)
    q.requires_grad_(False)
    y = separable_attention(q, k, weight, alpha, beta, masked=True)
    (grad,) = torch.autograd.grad(y[:, :, 2, 1].sum(), k)
    assert (grad[:, :, 2, 2:] == 0).all()
    assert (grad[:, :, 3:] == 0).all()
    assert (grad[:, :, 2, 1] != 0).any()


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('zeros', [0, 3, 12])
@pytest.mark.parametrize('skip', ['none', 'ordinary', 'cancels'])
def test_rank_of_the_matrix(masked, zeros, skip):
    weight = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(3, 4)
    weight.flatten()[:zeros] = 0
    alpha = torch.tensor(-2.0, dtype=torch.float64)
    eigenvalue = alpha * (weight.flatten()[-1] if masked else weight.sum())
    beta = {'none': 0 * alpha, 'ordinary': alpha + 5.5, 'cancels': -eigenvalue}[skip]
    rank = mixing_rank(weight, alpha, beta, masked=masked)
    matrix = mixing_matrix(weight, alpha, beta, masked=masked)
    assert rank == torch.linalg.matrix_rank(matrix)
    if skip == 'none':
        assert rank == (12 - zeros if masked else min(12 - zeros, 1))


def test_elementwise_is_the_formula_of_the_released_code():
    q, k, weight, alpha, beta = make(7, 7)
    x = (F.relu6(q) * k).flatten(2)
    context = F.linear(x, weight.reshape(1, -1))
    expected = (alpha * context + beta * x).unflatten(2, (7, 7))
    assert_equal_in_double(separable_attention(q, k, weight, alpha, beta), expected)


def test_channels_last_input_gives_the_same_in_its_layout():
    q, k, *parameters = make(9, 12)
    layout = {'memory_format': torch.channels_last}
    for masked in (False, True):
        expected = separable_attention(q, k, *parameters, masked=masked)
        last = (q.contiguous(**layout), k.contiguous(**layout))
        y = separable_attention(*last, *parameters, masked=masked)
        assert_equal_in_double(y, expected)
        assert y.is_contiguous(**layout)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_sums_run_in_float32_under_autocast(dtype, masked):
    q, k, *parameters = make(40, 50, dtype=torch.float32)
    q, k = q.detach().to(dtype), k.detach().to(dtype)
    with torch.autocast('cpu', dtype=dtype):
        y = separable_attention(q, k, *parameters, masked=masked)
    assert y.dtype == dtype
    assert torch.equal(y, separable_attention(q, k, *parameters, masked=masked))
    x = (F.relu6(q) * k).float()
    exact = separable_attention(torch.ones_like(x), x, *parameters, masked=masked)
    error = (y.float() - exact).abs().max() / exact.abs().max()
    assert error < 2 * torch.finfo(dtype).eps


def test_elementwise_refuses_a_mask_and_says_why():
    with pytest.raises(RuntimeError, match='elementwise: it has no mask'):
        separable_attention(*make(2, 2), masked=True, backend='elementwise')


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 3, 4), 'q has shape'),
        (0, (2, 3, 4, 0), 'no zero'),
        (1, (2, 3, 5, 4), r'k has shape \(2, 3, 5, 4\); expected that of q'),
        (2, (20,), r'weight has shape \(20,\); expected that of the map, \(4, 5\)'),
        (3, (1,), r'alpha has shape \(1,\); expected a scalar'),
        (4, (2,), r'beta has shape \(2,\)'),
    ],
)
def test_bad_shapes_are_named(position, shape, words):
    inputs = list(make(4, 5))
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        separable_attention(*inputs)


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="no backend 'fft'"):
        separable_attention(*make(2, 2), backend='fft')
