"""The count agrees with the published tables and with counts by hand."""

import math

import pytest
import torch
from torch import nn

from mmssm.backbones import SpatialMamba, VMINet
from mmssm.analysis.flops import count_macs, counting, fft_macs
from mmssm.layers import SSM2D, StateFusion
from mmssm.ops import dispatch, selective_scan, ssm2d_kernel

# GFLOPs of the classifier at 224 x 224, of arXiv 2410.15091 and of the released VMINet
PUBLISHED = {
    (SpatialMamba, 'tiny'): 4.468,
    (SpatialMamba, 'small'): 7.117,
    (SpatialMamba, 'base'): 15.801,
    (VMINet, 'ti'): 0.350,
    (VMINet, 'xs'): 1.258,
    (VMINet, 's'): 2.301,
    (VMINet, 'b'): 4.781,
}


@pytest.mark.parametrize(('backbone', 'arch'), PUBLISHED)
def test_backbone_and_head_are_within_two_percent_of_the_paper(backbone, arch):
    model = backbone(arch)
    count = count_macs(model, (1, 3, 224, 224)).total + 1000 * model.channels[-1]
    assert count / 1e9 == pytest.approx(PUBLISHED[backbone, arch], rel=0.02)


def test_filter_by_hand():
    # a 3 x 5 map: FFT of 6 x 10 numbers; 4 directions of 2 SSMs with 3 states
    layer = SSM2D(8, num_states=3, num_ssms=2)
    states = 4 * (2 * 4) * 3 * 15
    kernels = 2 * 3 * (4 * 8) * 15
    transforms = (2 * 2 + 1) * 8 * round(5 * 60 * math.log2(60))
    products = 4 * 2 * 8 * 6 * 6
    count = count_macs(layer, (2, 8, 3, 5))
    assert count.total == states + kernels + transforms + products
    assert count.ops == {'ssm2d': count.total}


def test_complex_states_by_hand():
    A, B = torch.zeros(4, 1, 3, dtype=torch.cfloat), torch.zeros(2, 1, 3).cfloat()
    C = torch.zeros(2, 2, 5, 3, dtype=torch.cfloat)
    with counting() as read:
        ssm2d_kernel(A, B, C, (7, 9))
    assert read().total == 63 * (4 * 4 * 3 + 2 * 2 * 2 * 5 * 3)


def test_tolerance_counts_the_taps_that_are_left():
    layer = SSM2D(4, tolerance=1e-3)
    full = count_macs(layer, (1, 4, 64, 64)).total
    assert count_macs(layer, (1, 4, 64, 64), 'cpu').total < full
    layer.tolerance = 0
    assert count_macs(layer, (1, 4, 64, 64), 'cpu').total == full


def test_fusion_is_counted_as_its_convolutions():
    assert count_macs(StateFusion(6), (2, 6, 5, 7)).total == 3 * 9 * 2 * 6 * 35


def test_ffts_of_torch_are_counted():
    x = torch.zeros(3, 16)
    with counting() as read:
        torch.fft.irfft(torch.fft.rfft(x))
    assert read().total == 2 * 3 * fft_macs(16) == 2 * 3 * 5 * 16 * 4


def test_a_linear_layer_and_a_convolution_count_their_products():
    assert count_macs(nn.Linear(5, 7), (2, 5)).total == 2 * 5 * 7
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    assert count_macs(depthwise, (2, 6, 4, 5)).total == 2 * 6 * 20 * 9


@pytest.mark.parametrize('backend', [None, 'naive'])
def test_every_backend_counts_the_same(backend):
    u = torch.rand(2, 6, 11)
    inputs = (u, u, -torch.ones(6, 3), torch.rand(2, 3, 11))
    with counting() as read:
        assert not selective_scan(*inputs, backend=backend).any()
    assert read().ops == {'selective_scan': 7 * 2 * 6 * 3 * 11}
    assert selective_scan(*inputs, backend=backend).any()


def test_ops_come_back_after_an_error():
    before = dispatch.registered()
    with pytest.raises(ZeroDivisionError), counting():
        raise ZeroDivisionError
    assert dispatch.registered() == before


def test_every_op_has_a_count():
    with counting():
        stand_ins = dispatch.registered()
    real = dispatch.registered()
    assert {op for op in real if stand_ins[op] == real[op]} == set()
