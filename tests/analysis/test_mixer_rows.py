"""Mixers are caught with what they are given, and their rows are those of M."""

import pytest
import torch
from parity import assert_equal_in_double

from mmssm.analysis import mixer_rows, style
from mmssm.analysis.mixing import mixing_matrix
from mmssm.backbones import MILA, SpatialMamba, VMamba, VMINet
from mmssm.hosts import add_ssm2d
from mmssm.layers import GatedLinearAttention, StructureAwareSSM

SMALL = {
    'spatial_mamba': (SpatialMamba, {}),
    'vmamba': (VMamba, {'expand': 1}),
    'mila': (MILA, {'heads': (2, 2)}),
    'vminet': (VMINet, {'expand': 2}),
}


def small(name):
    torch.manual_seed(0)
    kind, more = SMALL[name]
    return kind(dict(channels=8, depths=(1, 2), **more), out_indices=(0, 1))


def caught(model, size=(29, 40)):
    torch.manual_seed(1)
    image = torch.randn(1, 3, *size)
    return mixer_rows.mixer_inputs(model, lambda: model(image))


@pytest.mark.parametrize('name', SMALL)
def test_every_block_gives_one_mixer(name):
    found = caught(small(name))
    names = [given.name for given in found]
    assert [n.rpartition('.')[0] for n in names] == [
        'stages.0.blocks.0',
        'stages.1.blocks.0',
        'stages.1.blocks.1',
    ]
    first, second = mixer_rows.stages(found)
    assert [len(first), len(second)] == [1, 2]
    assert first[0].x.shape == (1, 8, 8, 10)
    assert not any(m._forward_pre_hooks for m in small(name).modules())


def test_what_a_mixer_is_given_comes_behind_its_norm():
    model = small('spatial_mamba').eval()
    given = caught(model)[0]
    assert isinstance(given.layer, StructureAwareSSM)
    assert given.x.mean(1).abs().max() < 1e-5  # a norm that has not been trained
    seen = []
    handle = given.layer.in_proj.register_forward_pre_hook(
        lambda _, a: seen.append(a[0])
    )
    with torch.no_grad():
        given.layer(given.x)
    handle.remove()
    assert seen[0].shape[-1] == 8


def test_of_mixers_in_mixers_the_outer_one_counts():
    found = caught(small('mila'))
    assert all(isinstance(given.layer, GatedLinearAttention) for given in found)


def test_layers_in_hosts_are_found():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.ReLU())
    add_ssm2d(model, modules={'0': 'BCHW'}, ssm2d={'num_states': 2})
    (given,) = caught(model)
    assert given.x.shape == (1, 4, 7, 10)


@pytest.mark.parametrize('name', SMALL)
def test_rows_are_those_of_the_matrix(name):
    given = caught(small(name))[1]
    given = given._replace(x=given.x.double(), layer=given.layer.double())
    found = mixer_rows.row(given, (0.5, 0.3))
    height, width = found.weights.shape
    assert found.position == (height // 2, int(0.3 * width))
    place = found.position[0] * width + found.position[1]
    with torch.no_grad():
        matrix = mixing_matrix(given.layer, given.x)
    expected = matrix[0, :, place].abs().sum(0)
    assert_equal_in_double(found.weights.flatten(), expected / expected.sum())
    flat = found.weights.flatten()
    assert found.own == flat[place].item()
    assert found.largest_other == flat[torch.arange(len(flat)) != place].max().item()
    top, left = (max(p - 1, 0) for p in found.position)
    near = found.weights[top : found.position[0] + 2, left : found.position[1] + 2]
    assert found.nearby == pytest.approx(near.sum().item())
    down = torch.arange(height)[:, None] - found.position[0]
    right = torch.arange(width) - found.position[1]
    distance = (down**2 + right**2).double().sqrt()
    assert found.spread == pytest.approx((distance * found.weights).sum().item())


def test_spots_outside_are_named():
    given = caught(small('vminet'))[0]
    with pytest.raises(ValueError, match=r'spot is \(1.0, 0\)'):
        mixer_rows.row(given, (1.0, 0))


def test_drawing(tmp_path):
    families = {}
    for name in ('spatial_mamba', 'vminet'):
        _, blocks = mixer_rows.stages(caught(small(name)))
        families[name] = [
            [('block', mixer_rows.row(given, spot)) for given in blocks]
            for spot in mixer_rows.SPOTS
        ]
    with style.styled():
        made = mixer_rows.draw(torch.rand(3, 29, 40), families)
        style.write_figure(tmp_path / 'a.png', made)
    assert len(made.axes) == 4 * 3 + 1  # and a scale
    rows = {'a': families['vminet'][0][:1]}
    (numbers,) = mixer_rows.summary(rows)['a']
    assert numbers['map'] == [4, 5]
    assert numbers['position'] == (2, 2)
