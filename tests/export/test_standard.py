"""Standard forms compute what they stand for."""

import pytest
import torch
from parity import assert_equal_in_double
from torch import nn

from mmssm.export import scan
from mmssm.export.filter import StandardFilter
from mmssm.export.pooling import StandardPool
from mmssm.export.standard import _observe, standard_form
from mmssm.layers import SSM2D
from mmssm.ops import cross_scan, observe, selective_scan


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize('length', [1, 63, 64, 65, 200])
def test_recurrence(length):
    decay, x = double(length, 2, 3).sigmoid(), double(length, 2, 3)
    h, expected = torch.zeros(2, 3).double(), []
    for a, value in zip(decay, x, strict=True):
        h = a * h + value
        expected.append(h)
    actual = scan.linear_recurrence(decay, x)
    assert_equal_in_double(actual, torch.stack(expected))


def test_decays_of_zero_do_no_harm():
    x = double(150, 2)
    assert_equal_in_double(scan.linear_recurrence(torch.zeros_like(x), x), x)


def test_selective_scan():
    u, delta, B = double(2, 6, 70), double(2, 2, 70), double(2, 3, 2, 70)
    A, bias, weight = -double(6, 2).exp(), double(6), double(6, 2)
    expected = selective_scan(u, delta, A, B, bias, delta_weight=weight)
    rows = (u.mT, delta.mT, A, B.permute(0, 3, 1, 2), bias, weight)
    actual = scan.selective_scan_low_rank(*rows).permute(0, 2, 3, 1)
    assert_equal_in_double(actual, expected)


def test_cross_scan():
    u, delta = double(2, 6, 7, 9), double(2, 4, 6, 7, 9)
    B, C = double(2, 2, 4, 2, 7, 9)
    A, D, bias = -double(4, 6, 2).exp(), double(4, 6), double(4, 6)
    expected = cross_scan(u, delta, A, B, C, D, bias)
    lined = (
        u.permute(0, 2, 3, 1),
        delta.permute(1, 0, 3, 4, 2),
        A,
        B.permute(1, 2, 0, 3, 4),
        C.permute(1, 2, 0, 3, 4),
        D,
        bias,
    )
    assert_equal_in_double(scan.cross_scan(*lined).permute(0, 3, 1, 2), expected)


def test_observation():
    h, u, C = double(2, 5, 7, 9), double(2, 5, 7, 9), double(2, 1, 7, 9)
    D, kernels, alpha = double(5), double(3, 5, 1, 3, 3), double(3)
    expected = observe(h, C, u, D, kernels, alpha)
    taps = kernels * alpha[:, None, None, None, None]
    assert_equal_in_double(_observe(h, C, u, D, taps, (1, 3, 5)), expected)


FILTERS = {
    'plain': {},
    'two': {'directions': 2, 'num_ssms': 2},
    'complex': {'complex_states': True, 'skip': True},
    'uneven': {'num_ssms': 4, 'norm': True},
    'short': {'kernel_size': (3, 5)},
}


@pytest.mark.parametrize('options', FILTERS.values(), ids=FILTERS)
def test_filter(options):
    torch.manual_seed(0)
    layer = SSM2D(6, num_states=3, **options).double().eval()
    # complex states reach far: as far as these maps, in a file for one size
    size = (14, 50) if 'complex_states' in options else None
    standard = StandardFilter(layer, size).double()
    for size in ((1, 1), (7, 9), (14, 50)):
        x = double(2, 6, *size)
        with torch.no_grad():
            expected, actual = layer(x), standard(x)
        scale = x.abs().max() if layer.norm is None else 1
        # what is cut off changes nothing by more than this, see TOLERANCE
        assert (actual - expected).abs().max() < 2e-6 * scale


def test_kernel_keeps_its_precision():
    layer = SSM2D(6, num_states=3)
    assert StandardFilter(layer).half().kernel.dtype == torch.float32


def test_kernels_without_an_end_need_one_size():
    layer = SSM2D(6, num_states=3)
    nn.init.constant_(layer.A, 9.0)
    with pytest.raises(ValueError, match=r'reaches 4096 cells.*dynamic=False'):
        standard_form(layer)
    x = torch.randn(1, 6, 12, 17)
    one = standard_form(layer, x, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(one(x), layer.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [1, 3, (2, None), (None, 6)])
def test_pooling(size):
    x = double(2, 3, 7, 11)
    expected = nn.AdaptiveAvgPool2d(size)(x)
    assert_equal_in_double(StandardPool(size)(x), expected)
    assert isinstance(standard_form(nn.AdaptiveAvgPool2d(size)), StandardPool)
