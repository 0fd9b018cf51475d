"""mmssm.Mega and its layers; the released outputs are in test_ssm2d_names.py."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_equal_in_double

from mmssm.backbones import Mega
from mmssm.layers import (
    ExponentialMovingAverage,
    GatedAttention,
    RelativePositionBias,
)

SMALL = dict(
    channels=(8,) * 4, depths=(1, 1, 1, 1), patch=16, shared=4, expanded=16, hidden=16
)
CIFAR = dict(
    channels=(192,) * 4,
    depths=(2, 2, 2, 3),
    patch=4,
    shared=192,
    expanded=192,
    hidden=192,
)


def recurrence(ema, x):
    """The average as it is defined, pixel after pixel, (B, C, L)."""
    alpha, delta = ema.alpha.sigmoid(), ema.delta.sigmoid()
    batch, channels, length = x.shape
    total = ema.omega[:, None] * x
    for way in (0, 1):
        h = torch.zeros(batch, channels, alpha.shape[2], dtype=x.dtype)
        out = [None] * length
        for t in range(length) if way == 0 else reversed(range(length)):
            weights = ema.gamma[way] * alpha.shape[2] ** -0.5
            after = (1 - alpha[way] * delta[way]) * h
            after = after + alpha[way] * ema.beta[way] * x[:, :, t, None]
            # the way back gives a pixel what was known before it
            out[t] = (weights * (after if way == 0 else h)).sum(-1)
            h = after
        total = total + torch.stack(out, -1)
    return F.silu(total)


@pytest.mark.parametrize('size', [(1, 1), (1, 5), (7, 3)])
def test_average_is_its_recurrence(size):
    torch.manual_seed(0)
    ema = ExponentialMovingAverage(3, num_states=4).double()
    x = torch.randn(2, 3, *size).double().requires_grad_()
    inputs = [x, *ema.parameters()]
    results = []
    for y in (ema(x).flatten(2), recurrence(ema, x.flatten(2))):
        assert y.shape == (2, 3, size[0] * size[1])
        gradients = torch.autograd.grad((y * y.cos()).sum(), inputs, allow_unused=True)
        results.append([y, *gradients])
    for fast, exact in zip(*results, strict=True):
        assert_equal_in_double(fast, exact)


def test_bias_on_the_training_grid_follows_the_distance():
    bias = RelativePositionBias((3, 5))
    matrix = bias(3, 5)
    for query in range(15):
        for key in range(15):
            assert matrix[query, key] == bias.bias[14 + key - query]


@pytest.mark.parametrize('grid', [(1, 1), (2, 9), (7, 4), (1, 6)])
def test_bias_on_another_grid_follows_distance_and_keeps_that_of_none(grid):
    bias = RelativePositionBias((3, 5)).double()
    height, width = grid
    maps = bias(height, width).unflatten(0, grid).unflatten(2, grid)
    assert_equal_in_double(maps[0, 0, 0, 0], bias.bias[14])
    assert torch.equal(maps[1:, :, 1:], maps[:-1, :, :-1])
    assert torch.equal(maps[:, 1:, :, 1:], maps[:, :-1, :, :-1])
    assert len(maps.unique()) == (2 * height - 1) * (2 * width - 1)


def test_bias_grows_with_the_grid():
    bias = RelativePositionBias((3, 5)).double()
    bias.bias.data = torch.arange(29.0).double()  # 5 for a row, 1 for a column
    key = bias(9, 15)[4 * 15 + 7].unflatten(0, (9, 15))  # seen from the middle
    rows, columns = key[:, 7].diff(), key[4].diff()
    assert_equal_in_double(rows[3:5], torch.full((2,), 25 / 17, dtype=torch.float64))
    assert_equal_in_double(columns[6:8], torch.full((2,), 9 / 29, dtype=torch.float64))


def test_a_closed_gate_keeps_the_map():
    attention = GatedAttention(6, torch.nn.Identity(), (3, 4), 4, 8)
    attention.gates.bias.data[:6] = -1e4
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(attention(x), x)


@pytest.mark.parametrize(
    ('mixer', 'options', 'cifar', 'tiny'),
    [
        ('none', {}, 2761435, 5912380),  # published: 2.75M and 5.91M
        ('ema', {}, 2984347, 6209596),  # published: 2.98M and 6.21M
        # published: 2.80M and 5.96M, without its states and directions
        ('ssm2d', dict(num_states=4, directions=2, skip=True), 2794267, 5956156),
    ],
)
def test_parameters_of_the_classifiers(mixer, options, cifar, tiny):
    counts = []
    for arch, size, classes in [(CIFAR, 32, 100), ('tiny', 224, 1000)]:
        with torch.device('meta'):
            model = Mega(arch, mixer, train_size=size, **options)
        body = [p for n, p in model.named_parameters() if not n.startswith('out_norms')]
        channels = 192
        head = 2 * channels + (channels + 1) * (channels + classes)
        counts.append(sum(p.numel() for p in body) + head)
    assert counts == [cifar, tiny]


def test_train_size_sets_the_grids():
    model = Mega(SMALL, train_size=(64, 100))
    assert model.stem.position.shape == (8, 4, 7)
    assert model.stages[0].blocks[0].attention.position.grid == (4, 7)


@pytest.mark.parametrize('size', [(64, 96), (33, 200), (1, 1)])
def test_equal_positions_stay_so_at_any_size(size):
    model = Mega(SMALL, 'none', train_size=(64, 96)).double()
    model.stem.position.data.fill_(3)
    x = torch.randn(1, 3, *size).double()
    assert_equal_in_double(model.stem(x), model.stem.conv(x) + 3)


def test_positions_of_the_training_grid_are_not_resized():
    model = Mega(SMALL, 'none', train_size=(64, 96))
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(model.stem(x), model.stem.conv(x) + model.stem.position)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(mixer='fft'), "mixer is 'fft'; expected one of"),
        (dict(train_size=0), 'train_size is 0'),
        (dict(train_size=(64, 64, 64)), 'train_size is'),
        (dict(arch=dict(SMALL, channels=8)), 'the same number four times'),
        (dict(arch=dict(SMALL, patch=0)), 'patch=0'),
        (dict(arch=dict(SMALL, patch=14)), 'patch=14; expected one of 4, 8'),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Mega(**{'arch': SMALL, **options})


@pytest.mark.parametrize('mixer', ['ema', 'none'])
def test_other_mixers_train_on_any_size(mixer):
    model = Mega(SMALL, mixer, train_size=64)
    outputs = model(torch.randn(2, 3, 70, 33))
    assert [y.shape[2:] for y in outputs] == [(18, 9), (9, 5), (5, 3), (3, 2)]
    sum((y * torch.randn_like(y)).sum() for y in outputs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
