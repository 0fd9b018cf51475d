"""The neck of classifiers against its formula, position by position."""

import pytest
import torch
from parity import assert_equal_in_double
from torch import nn

from mmssm.backbones import Mega
from mmssm.layers import ChannelNorm, NormedPooling
from mmssm.registry import MODELS

MAPS = (3, 5, 7, 9)


def maps():
    torch.manual_seed(0)
    return (torch.zeros(1), torch.randn(MAPS, dtype=torch.float64))


@pytest.mark.parametrize('kind', ['LN', 'BN', None])
@pytest.mark.parametrize('project', [False, True])
def test_the_formula(kind, project):
    torch.manual_seed(1)
    neck = NormedPooling(5, kind and dict(type=kind), project).double().eval()
    for parameter in neck.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = maps()[-1]
    norm = {'LN': ChannelNorm, 'BN': nn.BatchNorm2d}.get(kind)
    assert isinstance(neck.norm, norm or nn.Identity)
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for row in range(7):
        for column in range(9):
            y = neck.norm(x)[:, :, row, column]
            if project:
                linear = neck.project.linear
                y = y @ linear.weight.mT + linear.bias
                y = y * torch.sigmoid(y)
            expected += y / 63
    (found,) = neck(maps())
    assert_equal_in_double(found, expected)


def test_it_is_built_by_its_name_and_starts_as_the_released_one():
    neck = MODELS.build(dict(type='mmssm.NormedPooling', in_channels=400, project=True))
    weight = neck.project.linear.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not neck.project.linear.bias.any()
    with pytest.raises(ValueError, match="'Nope'"):
        NormedPooling(4, dict(type='Nope'))


def test_mega_gives_it_maps_of_its_own_stride():
    arch = dict(
        channels=(8,) * 4, depths=(1, 1, 1, 1), patch=4, shared=4, expanded=8, hidden=8
    )
    torch.manual_seed(0)
    whole = Mega(arch, num_states=2, num_ssms=1, train_size=32)
    plain = Mega(
        arch, num_states=2, num_ssms=1, train_size=32, pyramid=False, out_indices=(3,)
    )
    assert plain.strides == (4,)
    weights = {k: v for k, v in whole.state_dict().items() if k in plain.state_dict()}
    plain.load_state_dict(weights)
    x = torch.randn(2, 3, 31, 40)
    seen = []
    whole.out_norms['3'].norm.register_forward_hook(lambda m, args, y: seen.append(y))
    whole(x)
    (found,) = plain(x)
    assert found.shape == (2, 8, 8, 10)
    assert torch.equal(found, seen[0])
