"""Kernels as impulses show them, and the bound of what may be left out."""

import pytest
import torch
from parity import assert_equal_in_double
from torch import nn

from mmssm.analysis import kernels, style
from mmssm.layers import SSM2D, StateFusion

SIZE = (7, 9)


@pytest.mark.parametrize('directions', [2, 4])
@pytest.mark.parametrize('channels', [3, 8])
def test_turned_kernels_are_what_an_impulse_leaves(directions, channels):
    torch.manual_seed(0)
    layer = SSM2D(channels, num_states=2, directions=directions).double()
    found = kernels.filter_kernels(layer, SIZE)
    height, width = SIZE
    impulse = torch.zeros(1, channels, 2 * height - 1, 2 * width - 1).double()
    impulse[:, :, height - 1, width - 1] = 1
    expected = layer(impulse)[0]
    both = torch.zeros_like(expected)
    for way, kernel in found.kernels.items():
        top, left = (
            n - 1 if step > 0 else 0
            for n, step in zip(SIZE, kernels.WAYS[way], strict=True)
        )
        both[:, top : top + height, left : left + width] += kernels.turned(kernel, way)
    assert_equal_in_double(both, expected.detach())


@pytest.mark.parametrize('channels', [3, 8])
@pytest.mark.parametrize('tolerance', [0.5, 1e-2])
def test_beyond_the_support_lies_less_than_the_tolerance(channels, tolerance):
    torch.manual_seed(0)
    layer = SSM2D(channels, num_states=2, num_ssms=2).double()
    with torch.no_grad():
        layer.A.sub_(1.0)
    size = (40, 44)
    found = kernels.filter_kernels(layer, size, tolerance)
    assert len(found.support) == channels
    assert min(min(pair) for pair in found.support) < 40
    for channel, (height, width) in enumerate(found.support):
        beyond = 0.0
        for kernel in found.kernels.values():
            taps = kernel[channel].abs().clone()
            taps[:height, :width] = 0
            beyond += taps.sum()
        assert beyond <= tolerance


def test_the_fused_kernel_is_what_an_impulse_leaves():
    torch.manual_seed(0)
    layer = StateFusion(3, dilations=(1, 3)).double()
    nn.init.normal_(layer.kernels)
    nn.init.normal_(layer.alpha)
    impulse = torch.zeros(1, 3, 15, 15).double()
    impulse[:, :, 7, 7] = 1
    expected = layer(impulse)[0, :, 4:11, 4:11].flip(1, 2)
    assert_equal_in_double(kernels.fusion_kernel(layer), expected.detach())


def test_mean_distances_by_hand():
    taps = torch.zeros(2, 3, 5)
    taps[0, 0, 0] = taps[0, 0, 4] = -1
    taps[1, 2, 0] = 3
    found = kernels.FilterKernels({'down, right': taps}, [(1, 5), (3, 1)], 0.1)
    summary = kernels.filter_summary(found)
    assert summary['mean_distance']['down, right'].tolist() == [2, 2]
    assert summary['support'] == [(1, 5), (3, 1)]


def test_layers_are_found_by_kind_and_name():
    model = nn.ModuleDict({'a': SSM2D(2), 'b': nn.Sequential(SSM2D(2), StateFusion(2))})
    assert [*kernels.find(model, SSM2D)] == ['a', 'b.0']
    assert [*kernels.find(model, SSM2D, 'b.*')] == ['b.0']


def test_drawings(tmp_path):
    found = kernels.filter_kernels(SSM2D(6, num_states=2), SIZE)
    fused = {'a': kernels.fusion_kernel(StateFusion(6))}
    with style.styled():
        for number, made in enumerate(
            [
                kernels.draw_filter('mix', found, (0, 5)),
                kernels.draw_fusions(fused, (0, 1, 2)),
            ]
        ):
            style.write_figure(tmp_path / f'{number}.png', made)
    first = kernels.draw_filter('mix', found, (0, 5)).axes
    assert len(first) == 4 * 2
    outline = first[0].patches[-1]
    height, width = found.support[0]
    assert (outline.get_height(), outline.get_width()) == (height, width)
    assert outline.get_xy() == (-0.5, -0.5)
    upwards = first[2].patches[-1]  # the second direction of the first channel
    assert upwards.get_xy() == (-0.5, SIZE[0] - height - 0.5)
