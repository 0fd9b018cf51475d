"""The layer behind modules that are named, in a network that nobody described."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmssm.hosts import add_ssm2d, adding


class Stranger(nn.Module):
    """Patches of 4: maps, maps with channels last, then tokens with a class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.last = nn.LayerNorm(6)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.linear = nn.Linear(6, 5)
        self.head = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2))

    def forward(self, image):
        x = self.last(self.patches(image).permute(0, 2, 3, 1))
        x = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
        return self.head(self.linear(x).mean(1))


ALL = {'patches': 'BCHW', 'las?': 'BHWC', 'linear': 'tokens'}


def stranger():
    torch.manual_seed(0)
    return Stranger().eval()


@pytest.mark.parametrize('size', [(16, 16), (20, 28), (21, 30)])
def test_identity_start_is_the_host_bit_for_bit(size):
    x, model = torch.randn(2, 3, *size), stranger()
    expected = model(x)
    add_ssm2d(model, modules=ALL, stride=4, ssm2d=dict(num_states=2))
    assert torch.equal(model(x), expected)
    assert torch.equal(model(image=x), expected)
    assert {n.split('.')[0] for n, _ in model.named_parameters() if '.mix.' in n} == {
        'patches',
        'last',
        'linear',
    }


class Flip(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        assert x.shape[2:] == (5, 7)
        return x.flip(2)


@pytest.mark.parametrize('name', ['patches', 'last', 'linear'])
def test_the_layer_filters_maps_of_each_layout(name, monkeypatch):
    monkeypatch.setattr(adding, 'SSM2D', Flip)
    layouts = dict(patches='BCHW', last='BHWC', linear='tokens')
    model, x, seen = stranger(), torch.randn(2, 3, 20, 28), []
    hooked = model.get_submodule(name)
    hooked.register_forward_hook(lambda module, args, y: seen.append(y))
    add_ssm2d(model, start='published', modules={name: layouts[name]}, stride=4)
    hooked.register_forward_hook(lambda module, args, y: seen.append(y))
    model(x)
    before, after = seen
    if name == 'patches':
        assert torch.equal(after, before.flip(2))
    elif name == 'last':
        assert torch.equal(after, before.flip(1))
    else:
        assert torch.equal(after[:, 0], before[:, 0])
        maps = before[:, 1:].unflatten(1, (5, 7)).flip(1)
        assert torch.equal(after[:, 1:], maps.flatten(1, 2))


def test_copies_compute_the_same_and_learn():
    model, x = stranger(), torch.randn(2, 3, 20, 28)
    options = dict(num_states=2)
    add_ssm2d(model, start='published', modules=ALL, stride=4, ssm2d=options)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)
    expected.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ('modules', 'stride', 'message'),
    [
        ({'pathces': 'BCHW'}, None, "'pathces', which no module.*include patches"),
        ({'patches': 'NCHW'}, None, "'patches': 'NCHW'; expected a layout"),
        ({'head': 'BCHW'}, None, 'head is a Sequential, which does not tell'),
        ({'linear': 'tokens'}, None, 'stride is None; tokens need'),
    ],
)
def test_bad_names_are_refused_before_anything_is_added(modules, stride, message):
    model = stranger()
    names = set(model.state_dict())
    with pytest.raises(ValueError, match=message):
        add_ssm2d(model, modules={'patches': 'BCHW', **modules}, stride=stride)
    assert set(model.state_dict()) == names
    assert not model.patches._forward_hooks


def test_tokens_that_do_not_fill_the_grid_are_refused():
    model = add_ssm2d(stranger(), modules={'linear': 'tokens'}, stride=2)
    with pytest.raises(ValueError, match='36 tokens do not fill a map of 10 x 14'):
        model(torch.randn(2, 3, 20, 28))
