"""init_cfg's options, and stems for pictures with other channels."""

import pytest
import torch
from torch import nn

from mmssm.weights import adapt_in_channels, compare, from_official, read_options


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5, 7])
def test_the_sum_over_input_channels_is_kept(channels):
    weight = torch.randn(5, 3, 3, 2, dtype=torch.double)
    adapted = adapt_in_channels(weight, channels)
    assert adapted.shape == (5, channels, 3, 2)
    assert (adapted.sum(1) - weight.sum(1)).abs().max() < 1e-10


def test_three_channels_stay_and_more_keep_their_proportions():
    weight = torch.randn(5, 3, 3, 2)
    assert torch.equal(adapt_in_channels(weight, 3), weight)
    assert torch.allclose(adapt_in_channels(weight, 4)[:, :3], weight * 3 / 4)


@pytest.mark.parametrize('channels', [0, -1, 1.0, True, '3'])
def test_in_channels_that_are_no_number_are_named(channels):
    with pytest.raises(ValueError, match=f'in_channels is {channels!r}'):
        adapt_in_channels(torch.ones(1, 3, 1, 1), channels)


def test_options_of_a_dict_and_of_a_list():
    cfg = dict(type='Pretrained', checkpoint='a.pth', allow_missing=['stem.*'])
    for init_cfg in (cfg, [cfg], (cfg,)):
        options = read_options(init_cfg)
        assert options.checkpoint == 'a.pth'
        assert options.allow_missing == ('stem.*',)
        assert options.prefix == 'backbone.'


@pytest.mark.parametrize('init_cfg', [None, [], dict(type='Kaiming'), [dict(type='X')]])
def test_other_initialisers_are_none_of_ours(init_cfg):
    assert read_options(init_cfg) is None


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'checkpoint=None; expected'),
        ({'checkpoint': ''}, "checkpoint=''"),
        ({'checkpoint': 3}, 'checkpoint=3'),
        ({'checkpoint': 'a', 'map_location': 'cpu'}, r"unknown options \['map_loc"),
        ({'checkpoint': 'a', 'allow_missing': 'stem.*'}, "allow_missing='stem"),
        ({'checkpoint': 'a', 'prefix': None}, 'prefix=None'),
        ({'checkpoint': 'a', 'key': 1}, 'key=1'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        read_options(dict(type='Pretrained', **options))


def test_pretrained_weights_stand_alone():
    cfg = dict(type='Pretrained', checkpoint='a')
    with pytest.raises(ValueError, match='2 entries, of which 1 Pretrained'):
        read_options([cfg, dict(type='Kaiming')])


def test_official_weights_with_a_part_missing_are_named():
    prefix = 'layers.0.blocks.0.self_attention.state_fusion.'
    weights = {f'{prefix}{n}': torch.ones(3) for n in ('alpha', 'kernel_3')}
    with pytest.raises(ValueError, match="'spatial_mamba' weights are not complete"):
        from_official(weights, 'spatial_mamba')


def test_as_many_numbers_in_another_shape_do_not_fit():
    layer = nn.Linear(2, 3)
    weights = {'weight': torch.zeros(2, 3), 'bias': torch.zeros(3)}
    assert compare(weights, layer).mismatched == ['weight (2, 3) for (3, 2)']
