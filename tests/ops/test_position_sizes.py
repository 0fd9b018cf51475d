"""Position weights on other grids than the trained one, resampled or in windows."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_equal_in_double

from mmssm.ops import (
    resample_positions,
    separable_attention,
    windowed_separable_attention,
)

INTERPOLATIONS = ['bicubic', 'bilinear', 'area']
SIZES = [(9, 14), (14, 14), (5, 7), (1, 1), (3, 20), (28, 2)]


def make(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('mode', INTERPOLATIONS)
def test_trained_size_gives_the_very_weights(mode):
    weight = torch.nn.Parameter(make(7, 9).float())
    assert resample_positions(weight, (7, 9), mode) is weight


@pytest.mark.parametrize('mode', [*INTERPOLATIONS, 'mean'])
@pytest.mark.parametrize('size', SIZES)
def test_constant_weights_keep_the_sum(mode, size):
    weight = torch.full((7, 9), 0.3, dtype=torch.float64)
    expected = torch.full(size, 0.3 * 63 / (size[0] * size[1]), dtype=torch.float64)
    assert_equal_in_double(resample_positions(weight, size, mode), expected)


@pytest.mark.parametrize('mode', ['area', 'mean'])
@pytest.mark.parametrize('size', SIZES)
def test_area_and_mean_keep_every_sum(mode, size):
    weight = make(7, 9)
    assert_equal_in_double(resample_positions(weight, size, mode).sum(), weight.sum())


@pytest.mark.parametrize('mode', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size', SIZES)
def test_equals_interpolation_in_two_dimensions(mode, size):
    weight = make(7, 9)
    resized = F.interpolate(weight[None, None], size, mode=mode, antialias=True)
    expected = resized[0, 0] * (63 / (size[0] * size[1]))
    assert_equal_in_double(resample_positions(weight, size, mode), expected)


def test_area_repeats_whole_cells_and_splits_others():
    weight = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    doubled = resample_positions(weight, (1, 4), 'area')
    assert doubled.tolist() == [[0.5, 0.5, 1.5, 1.5]]
    third = resample_positions(weight, (1, 3), 'area')
    expected = torch.tensor([[2.0, 4.0, 6.0]], dtype=torch.float64) / 3
    assert_equal_in_double(third, expected)


@pytest.mark.parametrize('mode', INTERPOLATIONS)
def test_mirrored_weights_give_the_mirrored_result(mode):
    weight = make(7, 9)
    result = resample_positions(weight, (12, 5), mode)
    mirrored = resample_positions(weight.flip(0, 1), (12, 5), mode)
    assert_equal_in_double(mirrored, result.flip(0, 1))


@pytest.mark.parametrize('mode', INTERPOLATIONS)
def test_enlarging_a_smooth_map_keeps_its_context(mode):
    grid = torch.linspace(-1, 1, 17, dtype=torch.float64)[1::2]  # cell centres
    weight = (grid[:, None] + grid.square()).sin()
    fine = torch.linspace(-1, 1, 49, dtype=torch.float64)[1::2]
    x = (grid[:, None] * grid + 1).exp()
    fine_x = (fine[:, None] * fine + 1).exp()
    context = (weight * x).sum()
    enlarged = (resample_positions(weight, (24, 24), mode) * fine_x).sum()
    assert enlarged.item() == pytest.approx(context.item(), rel=0.02)


@pytest.mark.parametrize('mode', [*INTERPOLATIONS, 'mean'])
@pytest.mark.parametrize('size', [(5, 3), (2, 6)])
def test_gradient_reaches_every_weight(mode, size):
    weight = make(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        partial(resample_positions, size=size, mode=mode), weight
    )
    resample_positions(weight, size, mode).square().sum().backward()
    assert (weight.grad != 0).all()


@pytest.mark.parametrize('mode', [*INTERPOLATIONS, 'mean'])
def test_low_precision_weights_are_resampled_in_float32(mode):
    weight = make(7, 9).to(torch.bfloat16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = resample_positions(weight, (10, 10), mode)
    assert torch.equal(result, resample_positions(weight.float(), (10, 10), mode))


def test_unknown_mode_and_empty_size_are_named():
    with pytest.raises(ValueError, match="mode is 'cubic'; expected one of 'bicubic'"):
        resample_positions(make(3, 3), (4, 4), 'cubic')
    with pytest.raises(ValueError, match=r'size is \(4, 0\); expected \(H, W\)'):
        resample_positions(make(3, 3), (4, 0))


def windows_by_hand(length, window):
    """First positions: as few windows as cover the length, first and last flush."""
    count = next(n for n in range(1, 99) if n * window >= length)
    if count == 1:
        return [0]
    return [int(i * (length - window) / (count - 1)) for i in range(count)]


@pytest.mark.parametrize('size', [(4, 5), (8, 10), (5, 5), (9, 23), (4, 6)])
def test_windows_are_the_attention_of_crops_averaged(size):
    q, k, weight = make(2, 3, *size), make(2, 3, *size, seed=1), make(4, 5)
    alpha, beta = make(2)
    inputs = [v.requires_grad_() for v in (q, k, weight, alpha, beta)]
    total, count = torch.zeros_like(q), torch.zeros_like(q)
    for i in windows_by_hand(size[0], 4):
        for j in windows_by_hand(size[1], 5):
            here = (..., slice(i, i + 4), slice(j, j + 5))
            crop = separable_attention(q[here], k[here], *inputs[2:])
            place = (j, size[1] - j - 5, i, size[0] - i - 4)
            total = total + F.pad(crop, place)
            count = count + F.pad(torch.ones_like(crop), place)
    assert (count > 0).all()
    expected = total / count
    actual = windowed_separable_attention(*inputs)
    assert_equal_in_double(actual, expected)
    cotangent = make(2, 3, *size, seed=2)
    for pair in zip(
        torch.autograd.grad(actual, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        assert_equal_in_double(*pair)


def test_one_window_is_the_attention_itself():
    q, k = make(2, 3, 7, 9).float(), make(2, 3, 7, 9, seed=1).float()
    rest = make(7, 9).float(), torch.tensor(0.7), torch.tensor(1.3)
    whole = separable_attention(q, k, *rest)
    assert torch.equal(windowed_separable_attention(q, k, *rest), whole)


def test_window_larger_than_the_map_is_named():
    q = make(1, 2, 4, 5)
    with pytest.raises(ValueError, match=r'\(3, 6\); expected at most .* \(4, 5\)'):
        windowed_separable_attention(q, q, make(3, 6), *make(2))
