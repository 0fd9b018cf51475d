"""Where the 2-D SSM stands in the blocks of a host, shown by a layer that doubles."""

import pytest
import torch
from parity import assert_equal_in_double
from ssm2d_hosts import HOSTS, PLACES, bare, build, evaluated, loss_of, mixes
from torch import nn

from mmssm.hosts import adding
from mmssm.hosts.mix import Mix


class Double(nn.Module):
    """A layer whose place can be recognised: it doubles what it sees."""

    def __init__(self, channels, **options):
        super().__init__()
        self.channels, self.seen = channels, []

    def forward(self, x):
        assert x.shape[1] == self.channels
        self.seen.append(x)
        return 2 * x


@pytest.fixture
def doubled(monkeypatch):
    monkeypatch.setattr(adding, 'SSM2D', Double)


@pytest.mark.parametrize('name', [n for n in HOSTS if n not in ('vit', 'convnext')])
def test_attention_sees_the_layer_in_place_of_the_normed_map(name, doubled):
    model = evaluated(build(name, place='attention', start='published').double())
    host = evaluated(bare(name).double())
    host.load_state_dict(model.state_dict())
    for module in host.modules():
        if hasattr(module, 'attn') and hasattr(module, 'ffn'):
            norm = module.ln1 if 'vit' in name else module.norm1
            norm.weight.data *= 2
            norm.bias.data *= 2
    assert_same(model, host)


@pytest.mark.parametrize(
    'name', ['mmdet swin', 'mmseg swin', 'vit without class token']
)
def test_values_do_not_see_the_layer_of_queries_and_keys(name, doubled):
    model = evaluated(build(name, place='query_key', start='published').double())
    host = evaluated(bare(name).double())
    host.load_state_dict(model.state_dict())
    for key, weight in host.named_parameters():
        if key.endswith(('qkv.weight', 'in_proj_weight')):
            weight.data[: 2 * weight.shape[1]] *= 2
    assert_same(model, host)


@pytest.mark.parametrize('name', ['mmdet swin', 'vit without class token'])
def test_hidden_map_of_the_perceptron_goes_through_the_layer(name, doubled):
    model = evaluated(build(name, place='ffn', start='published').double())
    host = evaluated(bare(name).double())
    host.load_state_dict(model.state_dict())
    for key, parameter in host.named_parameters():
        if 'ffn.layers.0.0' in key:
            parameter.data *= 2
    assert_same(model, host)


@pytest.mark.parametrize('name', ['mit', 'pvt', 'convnext'])
def test_the_layer_replaces_the_depthwise_convolution(name, doubled):
    model = evaluated(build(name, start='published').double())
    host = evaluated(bare(name).double())
    host.load_state_dict(model.state_dict(), strict=False)
    for module in host.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            middle = module.kernel_size[0] // 2
            module.weight.data.zero_()[:, 0, middle, middle] = 2
            module.bias.data.zero_()
    assert_same(model, host)


def assert_same(model, host):
    x = torch.randn(2, 3, 70, 98, dtype=torch.float64)
    with torch.no_grad():
        for y, expected in zip(model(x), host(x), strict=True):
            assert_equal_in_double(y, expected)


@pytest.mark.parametrize(
    ('place', 'before', 'after'),
    [
        ('attention', 'ln1', 'attn'),
        ('query_key', 'ln1', 'attn'),
        ('ffn', 'ffn.layers.0.0', 'ffn.layers.0.1'),
    ],
)
def test_class_token_goes_round_the_layer(place, before, after, doubled):
    model = evaluated(build('vit', place=place, start='published'))
    seen = {}
    model.layers[1].get_submodule(before).register_forward_hook(
        lambda module, args, y: seen.update(before=y), prepend=True
    )
    model.layers[1].get_submodule(after).register_forward_pre_hook(
        lambda module, args: seen.update(after=args[0])
    )
    model(torch.randn(2, 3, 70, 98))
    assert torch.equal(seen['after'][:, 0], seen['before'][:, 0])
    assert torch.equal(seen['after'][:, 1:], 2 * seen['before'][:, 1:])


@pytest.mark.parametrize('name', [name for name in HOSTS if name != 'convnext'])
def test_the_layer_sees_upright_maps_without_padding(name, doubled):
    model = evaluated(build(name, place='attention', start='published'))
    tokens = []
    norms = [m for n, m in model.named_modules() if n.endswith(('.norm1', '.ln1'))]
    norms[0].register_forward_hook(lambda module, args, y: tokens.append(y))
    model(torch.randn(2, 3, 70, 98))
    size = (18, 25) if 'vit' not in name else (5, 7)
    seen = next(iter(mixes(model).values())).ssm2d.seen[0]
    assert seen.shape[2:] == size
    expected = tokens[0][:, 1:] if name == 'vit' else tokens[0]
    assert torch.equal(seen.permute(0, 2, 3, 1), expected.unflatten(1, size))


@pytest.mark.parametrize('place', ['attention', 'query_key', 'ffn'])
@pytest.mark.parametrize('name', ['mmdet swin', 'vit', 'mit', 'convnext'])
def test_recomputing_blocks_changes_nothing(name, place):
    place = place if place in PLACES[name] else PLACES[name][0]
    gradients = []
    for with_cp in (False, True):
        host = dict(with_cp=with_cp)
        model = build(name, place=place, start='published', host=host).double()
        torch.manual_seed(2)
        # two passes of swapped sides before the way back
        wide, tall = (torch.randn(1, 3, *s).double() for s in [(32, 96), (96, 32)])
        torch.manual_seed(1)
        loss_of([*model(wide), *model(tall)]).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    plain, recomputed = gradients
    for key, gradient in plain.items():
        assert_equal_in_double(recomputed[key], gradient, key)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64])
def test_a_growing_layer_keeps_the_dtype_of_the_host(dtype):
    x = torch.randn(1, 4, 5, 7, dtype=dtype)
    mix = Mix(nn.Identity(), 4, grows=True)
    assert torch.equal(mix(x, 3 * x), 3 * x)
    assert mix(x, x).dtype == dtype
