"""The states by kernels equal those along anti-diagonals; so does the filter."""

from functools import partial

import pytest
import torch
from kernels import DEVICE, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double

from mmssm.ops import dispatch, ssm2d, ssm2d_kernel
from mmssm.ops.filter import default_backend
from mmssm.ops.filter.states.wavefront import states_wavefront, states_wavefront_adjoint

kernels = kernels_of('filter.states')
SIZES = [(7, 9), (1, 1), (1, 6), (5, 1), (2, 2), (14, 3)]
PAIRS = 6


@pytest.fixture(autouse=True)
def short_bands(monkeypatch):
    """The interpreter computes all columns of a band, be they in the map or not."""
    if DEVICE == 'cpu':
        monkeypatch.setattr(kernels, 'BAND', 16)


@pytest.fixture
def narrow_bands(monkeypatch, short_bands):
    """Bands of 4 columns."""
    monkeypatch.setattr(kernels, 'BAND', 4)


def make(height, width, complex_states, dtype=torch.float64, near=0.0):
    """A, B and a gradient of the states; the modulus of A from `near` to 1."""
    randn = generator_of(height * width)
    A, B = near + (1 - near) * torch.sigmoid(randn(4, PAIRS)), randn(2, PAIRS)
    G = randn(height, width, 2, PAIRS)
    if complex_states:
        A = torch.polar(A, 3 * randn(4, PAIRS))
        B, G = torch.complex(B, randn(2, PAIRS)), torch.complex(G, randn(*G.shape))
    if dtype == torch.float32:
        dtype = torch.complex64 if complex_states else dtype
        return [t.to(dtype) for t in (A, B, G)]
    return [A, B, G]


def with_grads(states, adjoint, A, B, G):
    X = states(A, B, *G.shape[:2])
    return X, *adjoint(A, B, X, G.clone())


def as_planes(X):
    """(height, width, 2, P) -> (2, P, parts, height, width)."""
    parts = torch.view_as_real(X) if X.is_complex() else X[..., None]
    return parts.permute(2, 3, 4, 0, 1).contiguous()


def as_cells(planes, is_complex):
    cells = planes.permute(3, 4, 0, 1, 2).contiguous()
    return torch.view_as_complex(cells) if is_complex else cells[..., 0]


def by_kernels(A, B, G):
    X = kernels.states_triton(A, B, *G.shape[:2])
    grads = kernels.states_triton_adjoint(A, B, X, as_planes(G))
    return as_cells(X, A.is_complex()), *grads


by_diagonals = partial(with_grads, states_wavefront, states_wavefront_adjoint)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('complex_states', [False, True])
def test_kernels_equal_diagonals(size, complex_states):
    inputs = make(*size, complex_states)
    for pair in zip(by_kernels(*inputs), by_diagonals(*inputs), strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.usefixtures('narrow_bands')
@pytest.mark.parametrize('size', [(4, 14), (9, 5)])
@pytest.mark.parametrize('complex_states', [False, True])
def test_kernels_equal_diagonals_in_bands(size, complex_states):
    inputs = make(*size, complex_states)
    for pair in zip(by_kernels(*inputs), by_diagonals(*inputs), strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.usefixtures('narrow_bands')
@pytest.mark.parametrize('complex_states', [False, True])
@pytest.mark.parametrize('near', [0.0, 0.999])
def test_kernels_are_as_exact_in_float32(complex_states, near):
    single = make(5, 9, complex_states, torch.float32, near)
    double = [
        t.to(torch.complex128 if complex_states else torch.float64) for t in single
    ]
    fast, naive, exact = (
        by_kernels(*single),
        by_diagonals(*single),
        by_diagonals(*double),
    )
    for triple in zip(fast, naive, exact, strict=True):
        assert_as_exact_as_naive(*triple)


@pytest.mark.parametrize('complex_states', [False, True])
def test_the_filter_and_its_kernels_equal_naive(complex_states):
    randn = generator_of(1)
    values = [torch.sigmoid(randn(4, 2, 2)), randn(2, 2, 2), randn(2, 2, 4, 2)]
    if complex_states:
        values = [torch.complex(t, 0.1 * randn(*t.shape)) for t in values]
    maps = [randn(2, 4, 3, 5), *values, randn(4)]
    for function, inputs in (
        (ssm2d, maps),
        (partial(ssm2d_kernel, size=(3, 5)), values),
    ):
        inputs = [t.detach().requires_grad_() for t in inputs]
        results = []
        for backend in ('triton', 'naive'):
            result = function(*inputs, backend=backend)
            results.append((result, *gradients(result, inputs)))
        for pair in zip(*results, strict=True):
            assert_equal_in_double(*pair)


def test_compiled_code_keeps_the_operators_whole():
    randn = generator_of(2)
    values = [torch.sigmoid(randn(4, 1, 2)), randn(2, 1, 2), randn(2, 2, 1, 2)]
    inputs = [t.requires_grad_() for t in (randn(1, 1, 3, 4), *values)]
    compiled = torch.compile(
        partial(ssm2d, backend='triton'), backend='aot_eager', fullgraph=True
    )
    y, expected = compiled(*inputs), ssm2d(*inputs, backend='naive')
    assert_equal_in_double(y, expected)
    for pair in zip(gradients(y, inputs), gradients(expected, inputs), strict=True):
        assert_equal_in_double(*pair)


def test_result_is_the_same_every_time():
    inputs = make(5, 6, False, torch.float32)
    for pair in zip(by_kernels(*inputs), by_kernels(*inputs), strict=True):
        assert torch.equal(*pair)


@pytest.mark.skipif(DEVICE == 'cuda', reason='a GPU prefers the kernels')
def test_a_cpu_takes_the_kernels_by_name_only(monkeypatch):
    x = torch.ones(1, 1, 2, 2)
    values = [torch.ones(4, 1, 1), torch.ones(2, 1, 1), torch.ones(2, 2, 1, 1)]
    assert default_backend(x) == 'wavefront'
    assert dispatch.choose('ssm2d', None, x, *values).keywords['states'] == 'wavefront'
    monkeypatch.delenv('TRITON_INTERPRET')
    for function in (partial(ssm2d, x), partial(ssm2d_kernel, size=(2, 2))):
        with pytest.raises(RuntimeError, match='triton: the inputs are on cpu; Trit'):
            function(*values, backend='triton')
