"""Every form of the 2-D SSM equals its definition; laws that the definition obeys."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import (
    assert_as_exact_as_naive,
    assert_equal_in_double,
)
from torch.library import opcheck

from mmssm.ops.filter import convolution, operator, ssm2d, ssm2d_kernel, ssm2d_prepare
from mmssm.ops.filter.naive import states_naive

FAST = ['wavefront', 'tiled']
SIZES = [(7, 10), (1, 1), (1, 6), (5, 1), (2, 2), (18, 35)]


def make(
    height,
    width,
    channels=4,
    ssms=2,
    directions=2,
    complex_states=False,
    skip=True,
    batch=2,
    near=0.0,
):
    """x, A, B, C, skip in double; the modulus of A is uniform in [near, 1]."""
    generator = torch.Generator().manual_seed(height * width)
    rand = partial(torch.rand, generator=generator, dtype=torch.float64)
    randn = partial(torch.randn, generator=generator, dtype=torch.float64)
    A, B = near + (1 - near) * rand(4, ssms, 3), rand(2, ssms, 3)
    C = randn(2, directions, channels, 3)
    if complex_states:
        A = torch.polar(A, 6.3 * rand(4, ssms, 3))
        B, C = torch.complex(B, rand(2, ssms, 3)), torch.complex(C, randn(C.shape))
    values = [randn(batch, channels, height, width), A, B, C]
    values += [randn(channels)] if skip else []
    return [v.requires_grad_() for v in values]


def with_grads(function, inputs):
    result = function(*inputs)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(
        result, inputs, cotangent.to(result.dtype), materialize_grads=True
    )
    return result, *grads


def plain_kernels(A, B, C, size):
    """The naive states; matrix products in place of sums over states and cells."""
    edge = torch.ones(size, dtype=A.real.dtype)
    edge[0] *= 2
    edge[:, 0] *= 2
    edge[0, 0] /= 4
    states = (states_naive(A, B, *size) * edge).flatten(3)
    weights = C.flatten(1, 2).unflatten(1, (-1, A.shape[1])) / C.shape[3] ** 0.5
    kernels = torch.einsum('tsnp,trsn->rsp', states, weights).real
    return kernels.reshape(*C.shape[1:3], *size)


def plain(x, A, B, C, skip):
    """`plain_kernels`, and FFTs of twice the size for the sums over taps."""
    size, double = x.shape[2:], [2 * side for side in x.shape[2:]]
    y = skip[:, None, None] * x
    for kernel, axes in zip(plain_kernels(A, B, C, size), ((), (-2, -1)), strict=True):
        spectra = [torch.fft.rfft2(t, s=double) for t in (x.flip(axes), kernel)]
        sums = torch.fft.irfft2(spectra[0] * spectra[1], s=double)
        y = y + sums[..., : size[0], : size[1]].flip(axes)
    return y


def assert_all_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert_equal_in_double(one, other)


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('directions', [2, 4])
@pytest.mark.parametrize('complex_states', [False, True])
def test_fast_equals_naive(backend, size, directions, complex_states):
    inputs = make(*size, 4, directions, directions, complex_states)
    fast, naive = (
        with_grads(partial(ssm2d, backend=b), inputs) for b in (backend, 'naive')
    )
    assert_all_equal(fast, naive)


def test_maps_are_added_up_at_once_as_on_a_gpu(monkeypatch):
    inputs = make(7, 10, batch=3)
    expected = with_grads(partial(ssm2d, backend='naive'), inputs)
    monkeypatch.setattr(convolution, '_is_wide', lambda x: True)
    found = with_grads(partial(ssm2d, backend='tiled'), inputs)
    assert_all_equal(found, expected)


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('complex_states', [False, True])
def test_fast_kernels_equal_naive(backend, size, complex_states):
    inputs = make(*size, complex_states=complex_states)[1:4]
    fast, naive = (
        with_grads(partial(ssm2d_kernel, size=size, backend=b), inputs)
        for b in (backend, 'naive')
    )
    assert_all_equal(fast, naive)


@pytest.mark.parametrize('channels, ssms', [(7, 4), (10, 4), (3, 8), (5, 1)])
@pytest.mark.parametrize('complex_states', [False, True])
def test_any_number_of_channels(channels, ssms, complex_states):
    inputs = make(6, 9, channels, ssms, 4, complex_states)
    fast, naive = (
        with_grads(partial(ssm2d, backend=b), inputs) for b in (None, 'naive')
    )
    assert_all_equal(fast, naive)


@pytest.mark.parametrize('kernel_size', [1, 3, (2, 5), 8, (40, 4)])
def test_kernels_are_cropped_to_their_size_and_to_the_map(kernel_size):
    inputs = make(8, 6, directions=4, ssms=4)
    fast, naive = (
        with_grads(partial(ssm2d, backend=b, kernel_size=kernel_size), inputs)
        for b in (None, 'naive')
    )
    assert_all_equal(fast, naive)


def in_both_precisions(inputs):
    """The inputs rounded to single precision, and the same values in double."""
    single = [
        v.detach().to(torch.complex64 if v.is_complex() else torch.float32)
        for v in inputs
    ]
    double = [
        v.to(torch.complex128 if v.is_complex() else torch.float64) for v in single
    ]
    return [[v.requires_grad_() for v in values] for values in (single, double)]


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('complex_states', [False, True])
@pytest.mark.parametrize('near', [0.0, 0.999])
def test_fast_is_as_exact_in_float32(backend, complex_states, near):
    inputs = make(19, 23, complex_states=complex_states, near=near)
    single, double = in_both_precisions(inputs)
    fast = with_grads(partial(ssm2d, backend=backend), single)
    others = with_grads(plain, single)
    exact = with_grads(partial(ssm2d, backend='naive'), double)
    assert fast[0].dtype == torch.float32
    for name, *results in zip('yxABCs', fast, others, exact, strict=True):
        assert_as_exact_as_naive(*results, name=name)


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('complex_states', [False, True])
@pytest.mark.parametrize('near', [0.0, 0.999])
def test_fast_kernels_are_as_exact_in_float32(backend, complex_states, near):
    size = (19, 23)
    inputs = make(*size, complex_states=complex_states, near=near)[1:4]
    single, double = in_both_precisions(inputs)
    fast = with_grads(partial(ssm2d_kernel, size=size, backend=backend), single)
    others = with_grads(partial(plain_kernels, size=size), single)
    exact = with_grads(partial(ssm2d_kernel, size=size, backend='naive'), double)
    for name, *results in zip('KABC', fast, others, exact, strict=True):
        assert_as_exact_as_naive(*results, name=name)


def test_kernel_by_hand():
    A = torch.tensor([0.5, 0.25, 0.125, 0.5], dtype=torch.float64).view(4, 1, 1)
    B = torch.tensor([1.0, 2.0], dtype=torch.float64).view(2, 1, 1)
    C = torch.tensor([4.0, 8.0], dtype=torch.float64).view(2, 1, 1, 1)
    # h[0, 1] = A1 B1 + A2 B2 = 1, v[1, 0] = A3 B1 + A4 B2 = 9/8
    # K[1, 1] = (C1 A2 v[1, 0] + C2 A3 h[0, 1]) / 2 = (9/8 + 1) / 2
    expected = torch.tensor([[20.0, 4.0], [9.0, 1.0625]], dtype=torch.float64)
    kernels = ssm2d_kernel(A, B, C.expand(2, 2, 1, 1), (2, 2))
    assert_equal_in_double(kernels, expected.expand(2, 1, 2, 2))


@pytest.mark.parametrize('directions', [2, 4])
def test_impulse_gives_the_kernels(directions):
    x, A, B, C, _ = make(5, 7, 4, 2, directions)
    impulse = torch.zeros(1, 4, 9, 13, dtype=torch.float64)
    impulse[..., 4, 6] = 1
    y = ssm2d(impulse, A, B, C, kernel_size=(5, 7))[0]
    expected = torch.zeros_like(y)
    down, up, right, left = slice(4, None), slice(0, 5), slice(6, None), slice(0, 7)
    corners = [(down, right), (up, right), (down, left), (up, left)]
    flips = [(), (-2,), (-1,), (-2, -1)]
    used = [0, 3] if directions == 2 else [0, 1, 2, 3]
    for kernel, corner in zip(ssm2d_kernel(A, B, C, (5, 7)), used, strict=True):
        rows, columns = corners[corner]
        expected[:, rows, columns] += kernel.flip(flips[corner])
    assert_equal_in_double(y, expected)


def test_flipped_map_with_exchanged_directions_gives_the_flipped_result():
    x, A, B, C, skip = make(6, 9, 4, 4, 4)
    y = ssm2d(x, A, B, C, skip)
    flipped = ssm2d(x.flip(-2), A, B, C[:, [1, 0, 3, 2]], skip)
    assert_equal_in_double(flipped.flip(-2), y)


def test_transposed_map_with_exchanged_axes_gives_the_transposed_result():
    x, A, B, C, skip = make(6, 9, 4, 4, 4)
    y = ssm2d(x, A, B, C, skip)
    C = C.flip(0)[:, [0, 2, 1, 3]]
    assert_equal_in_double(ssm2d(x.mT, A.flip(0), B.flip(0), C, skip).mT, y)


def test_long_kernels_never_wrap_around():
    x, A, B, C, skip = make(4, 5, near=0.99)
    padded = F.pad(x, (0, 8, 0, 9))
    y = ssm2d(padded, A, B, C, skip, kernel_size=(4, 5))[..., :4, :5]
    assert_equal_in_double(ssm2d(x, A, B, C, skip), y)


def test_channels_last_input_gives_the_same():
    x, *others = make(9, 12, batch=3)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ssm2d(last, *others), ssm2d(x, *others))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_result_is_float32_under_autocast(dtype):
    x, *others = (v.detach().float() for v in make(8, 6))
    x = x.to(dtype)
    expected = ssm2d(x.float(), *others)
    others[-1].requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = ssm2d(x.requires_grad_(), *others)
        y.sum().backward()
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    assert x.grad.dtype == dtype
    assert others[-1].grad.dtype == torch.float32


@pytest.mark.parametrize('tolerance', [0.0, 1e-3])
def test_prepared_filter_gives_the_same_bits(tolerance):
    x, *others = (v.detach().float() for v in make(11, 14, 7, 4, 4))
    prepared = ssm2d_prepare(x, *others, tolerance=tolerance)
    for maps in (x, torch.randn_like(x)):
        assert torch.equal(prepared(maps), ssm2d(maps, *others, tolerance=tolerance))


@pytest.mark.parametrize('shape', [(2, 9, 6, 5), (2, 3, 6, 5), (2, 7, 6, 9), (7, 6, 5)])
def test_prepared_filter_refuses_other_maps(shape):
    x, *others = (v.detach() for v in make(6, 5, 7, 4, 4))
    prepared = ssm2d_prepare(x, *others)
    assert torch.equal(prepared(x[:1]), prepared(x)[:1])
    with pytest.raises(ValueError, match=r'prepared for \(B, 7, 6, 5\)'):
        prepared(torch.zeros(shape, dtype=torch.float64))


def test_result_is_the_same_every_time():
    inputs = [v.detach().float().requires_grad_() for v in make(17, 21, 8, 4, 4)]
    for one, other in zip(
        with_grads(ssm2d, inputs), with_grads(ssm2d, inputs), strict=True
    ):
        assert torch.equal(one, other)


def test_only_inputs_are_saved():
    inputs = make(9, 7)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        ssm2d(*inputs)
    pointers = {v.data_ptr() for v in inputs}
    assert {t.data_ptr() for t in saved} <= pointers


@pytest.mark.parametrize('complex_states', [False, True])
@pytest.mark.parametrize('states', FAST)
def test_operators_are_registered_soundly(complex_states, states):
    x, A, B, C, skip = make(4, 3, complex_states=complex_states)
    opcheck(operator.filter_maps.operator, (x, A, B, C, skip, 4, 3, 0.0, states))
    opcheck(operator.filter_maps.operator, (x, A, B, C, None, 2, 3, 1e-3, states))
    opcheck(operator.kernels_of.operator, (A, B, C, 4, 3, states))


@pytest.mark.parametrize(
    ('position', 'shape', 'words'),
    [
        (0, (2, 4, 5), 'x has shape'),
        (0, (2, 4, 5, 0), 'no zero'),
        (0, (2, 3, 5, 5), 'channels=4'),
        (1, (3, 2, 3), r'expected \(4, S, N\)'),
        (2, (2, 2, 4), r'expected \(2, S=2, N=3\)'),
        (3, (2, 3, 4, 3), '3 directions'),
        (3, (2, 2, 4, 4), 'N=3'),
        (4, (3,), r'expected \(channels=4,\)'),
    ],
)
def test_shapes_that_do_not_fit(position, shape, words):
    inputs = make(5, 5)
    inputs[position] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=words):
        ssm2d(*inputs)


@pytest.mark.parametrize('position, name', [(1, 'A'), (2, 'B'), (3, 'C')])
def test_values_that_are_not_finite(position, name):
    inputs = [v.detach() for v in make(5, 5)]
    inputs[position].view(-1)[1] = torch.nan
    with pytest.raises(ValueError, match=f'{name} has values that are not finite'):
        ssm2d(*inputs)


def test_other_bad_input():
    x, A, B, C, skip = make(5, 5)
    with pytest.raises(ValueError, match='real or all of them complex'):
        ssm2d(x, A, B, torch.complex(C, C), skip)
    with pytest.raises(ValueError, match='tolerance is -1'):
        ssm2d(x, A, B, C, skip, tolerance=-1)
    with pytest.raises(ValueError, match='expected None or numbers from 1'):
        ssm2d(x, A, B, C, skip, kernel_size=0)
    with pytest.raises(ValueError, match="no backend 'fast'"):
        ssm2d(x, A, B, C, skip, backend='fast')
