"""The count agrees with the published tables and with counts by hand."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from mmssm.analysis.flops import count_macs, counting, fft_macs, macs_per_module
from mmssm.backbones import MILA, SpatialMamba, VMamba, VMINet
from mmssm.layers import SSM2D, LinearAttention, StateFusion
from mmssm.ops import (
    cross_scan,
    dispatch,
    selective_scan,
    ssm2d,
    ssm2d_kernel,
    ssm2d_prepare,
)

# GFLOPs of the classifier at 224 x 224, of arXiv 2410.15091 and 2405.16605, of the
# README of VMamba and of the released VMINet
PUBLISHED = {
    (SpatialMamba, 'tiny'): 4.468,
    (SpatialMamba, 'small'): 7.117,
    (SpatialMamba, 'base'): 15.801,
    (MILA, 'tiny'): 4.2,
    (MILA, 'small'): 7.3,
    (MILA, 'base'): 16.2,
    (VMamba, 'tiny'): 4.9,
    (VMamba, 'small'): 8.7,
    (VMamba, 'base'): 15.4,
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


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_attention_of_torch_is_counted_on_every_device(device):
    query, key = (torch.zeros(2, 3, n, 8, device=device) for n in (5, 7))
    with counting() as read, torch.no_grad():
        nn.functional.scaled_dot_product_attention(query, key, key)
    assert read().total == 2 * 3 * 5 * 7 * (8 + 8)


def test_linear_attention_by_hand():
    # 15 positions, 2 heads of 4 channels: 4 x 4 states made and read, and the levels
    attention = 2 * (15 * 2 * (4 * 4 + 4 * 4) + 15 * 8)
    projection, convolution = 2 * 15 * 8 * 16, 2 * 15 * 8 * 9
    count = count_macs(LinearAttention(8, 2), (2, 8, 3, 5))
    assert count.ops['linear_attention'] == attention
    assert count.total == attention + projection + convolution


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


def test_every_direction_of_a_cross_scan_is_counted():
    u, delta = torch.rand(2, 6, 5, 7), torch.rand(2, 4, 6, 5, 7)
    B, D = torch.rand(2, 4, 3, 5, 7), torch.rand(4, 6)
    with counting() as read:
        assert not cross_scan(u, delta, -torch.ones(4, 6, 3), B, B, D).any()
    assert read().ops == {'cross_scan': 4 * (9 * 3 + 1) * 2 * 6 * 35}


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


def test_nothing_is_counted_after_an_error():
    with pytest.raises(ZeroDivisionError), counting():
        raise ZeroDivisionError
    u = torch.rand(1, 2, 3)
    assert selective_scan(u, u, -torch.ones(2, 1), torch.ones(1, 1, 3)).any()


def test_every_op_has_a_count():
    for op in dispatch.registered():
        assert dispatch.cost(op) is not None, op


def test_another_thread_computes_meanwhile():
    layer, x = SSM2D(4), torch.randn(1, 4, 9, 7)
    expected = layer(x)
    with counting() as read, ThreadPoolExecutor(1) as pool:
        assert not layer(x).any()
        counted = read()
        torch.testing.assert_close(pool.submit(layer, x).result(), expected)
        assert read() == counted


def test_a_warm_layer_counts_as_a_cold_one():
    layer, x = SSM2D(8).eval(), torch.randn(1, 8, 20, 25)

    def count(times=1):
        with counting() as read, torch.no_grad():
            for _ in range(times):
                layer(x)
        return read()

    cold = count()
    assert count(3).total == 3 * cold.total
    with torch.no_grad():
        for _ in range(3):
            layer(x)
    assert layer._kept._entry[2] is not None
    assert count() == cold
    with torch.no_grad():
        assert layer(x).any()


@pytest.mark.parametrize('channels, tolerance', [(8, 0.0), (6, 0.0), (8, 1e-2)])
def test_a_prepared_filter_counts_as_the_filter(channels, tolerance):
    x = torch.randn(3, channels, 40, 33)
    values = torch.full((4, 4, 2), 0.5), torch.ones(2, 4, 2)
    C = torch.ones(2, 4, channels, 2)
    prepared = ssm2d_prepare(x, *values, C, tolerance=tolerance)
    with counting() as read:
        result = prepared(x)
    assert result.shape == x.shape
    assert not result.any()
    with counting() as read_filter:
        ssm2d(x, *values, C, tolerance=tolerance)
    assert read() == read_filter()


def test_nested_counts():
    layer, x = StateFusion(6), torch.randn(2, 6, 5, 7)
    with counting() as outer:
        layer(x)
        with counting() as inner:
            layer(x)
    assert outer().total == 2 * inner().total == 2 * 3 * 9 * 2 * 6 * 35


class Mixer(nn.Module):
    """Layers in containers, a shared one, and a product and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 6))
        self.steps = nn.ModuleList([nn.Conv2d(6, 6, 1), StateFusion(6)])
        self.filter = SSM2D(6, norm=True)
        self.again = self.steps[0]
        self.tied = nn.Conv2d(6, 6, 1)
        self.tied.weight = self.steps[0].weight

    def forward(self, x):
        for step in (*self.steps, self.filter, self.again):
            x = step(x)
        return torch.einsum('bchw,dc->bdhw', x, self.weight)


def test_modules_sum_to_the_model():
    model, shape = Mixer(), (2, 6, 5, 7)
    rows = {row.name: row for row in macs_per_module(model, shape)}
    total = count_macs(model, shape)
    assert rows[''].macs == total.total
    assert rows[''].params == sum(p.numel() for p in model.parameters())
    assert rows['filter'].macs == rows['filter.(itself)'].macs == total.ops['ssm2d']
    assert rows['steps.0'] == ('steps.0', 'Conv2d', 6 * 7, 2 * 2 * 35 * 36)
    assert rows['tied'] == ('tied', 'Conv2d', 6, 0)
    assert rows['steps'].macs == rows['steps.0'].macs + rows['steps.1'].macs
    assert rows['(itself)'] == ('(itself)', 'Mixer', 36, 2 * 35 * 36)
    leaves = [
        row
        for row in rows.values()
        if row.name and not any(n.startswith(f'{row.name}.') for n in rows)
    ]
    assert sum(row.macs for row in leaves) == rows[''].macs
    assert sum(row.params for row in leaves) == rows[''].params
    assert not any(module._forward_hooks for module in model.modules())


def test_modules_of_a_backbone_sum_to_its_count():
    rows = macs_per_module(SpatialMamba('tiny'), (1, 3, 64, 96))
    assert rows[0].macs == count_macs(SpatialMamba('tiny'), (1, 3, 64, 96)).total
    leaves = [
        row
        for row in rows[1:]
        if not any(other.name.startswith(f'{row.name}.') for other in rows)
    ]
    assert sum(row.macs for row in leaves) == rows[0].macs
