"""mmssm.SSM2DHost: hosts stay what they are, and the layer learns."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from ssm2d_hosts import (
    HOSTS,
    SWIN,
    bare,
    build,
    each_case,
    each_host,
    evaluated,
    loss_of,
    mixes,
    outputs_of,
)
from torch import nn

from mmssm.hosts import SSM2DHost, adding, ssm2d_host
from mmssm.registry import MODELS


@each_case
def test_identity_start_is_the_host_bit_for_bit(name, place):
    host, model = bare(name), build(name, place=place, start='identity')
    loaded = model.load_state_dict(host.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert all('.mix.' in key for key in loaded.missing_keys)
    assert type(model).__name__ == type(host).__name__
    for size in [(64, 64), (70, 98)]:
        x = torch.randn(2, 3, *size)
        for training in (True, False):
            host.train(training), model.train(training)
            expected = outputs_of(host, x)
            assert all(map(torch.equal, outputs_of(model, x), expected))
            with torch.autocast('cpu', dtype=torch.bfloat16):
                expected = outputs_of(host, x)
                outputs = outputs_of(model, x)
            assert all(map(torch.equal, outputs, expected))
            assert [y.dtype for y in outputs] == [y.dtype for y in expected]


@each_case
def test_everything_learns_from_the_identity(name, place):
    model = build(name, place=place, host=dict(drop_path_rate=0.0))
    added = {n: p for n, p in model.named_parameters() if '.mix.' in n}
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model(torch.randn(2, 3, 64, 64))).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    assert len(added) >= 4
    assert [n for n, p in added.items() if not p.grad.any()] == []


@each_case
def test_published_start_uses_and_trains_every_parameter(name, place):
    model = build(name, place=place, start='published')
    loss_of(model(torch.randn(2, 3, 70, 98))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert not any(n.endswith('.mix.gain') for n in model.state_dict())
    lost = bare(name).state_dict().keys() - model.state_dict().keys()
    replaced = place == 'conv' or (place == 'ffn' and name in ('mit', 'pvt'))
    assert bool(lost) == replaced


def test_frozen_stages_freeze_their_layers():
    model = build('mmdet swin', host=dict(frozen_stages=2))
    model.train()
    for key, parameter in model.named_parameters():
        frozen = key.startswith(
            ('patch_embed', 'stages.0', 'stages.1', 'norm0', 'norm1')
        )
        assert parameter.requires_grad != frozen, key


@each_host
def test_weights_of_the_host_load_by_its_own_init_cfg(name, tmp_path):
    host, path = bare(name), tmp_path / 'host.pth'
    weights = {k: torch.randn_like(v) for k, v in host.named_parameters()}
    prefix = 'backbone.' if name in ('mmdet swin', 'convnext') else ''
    torch.save({'state_dict': {prefix + k: v for k, v in weights.items()}}, path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    for start in ('identity', 'published'):
        model = build(name, host=dict(init_cfg=init_cfg), start=start)
        model.init_weights()
        loaded = dict(model.named_parameters())
        kept = weights.keys() & loaded.keys()
        assert len(kept) > 10
        assert all(torch.equal(loaded[key], weights[key]) for key in kept)


def test_released_weights_of_swin_are_converted_by_the_host(tmp_path):
    names = [
        ('stages', 'layers'),
        ('attn.w_msa', 'attn'),
        ('ffn.layers.0.0', 'mlp.fc1'),
        ('ffn.layers.1', 'mlp.fc2'),
        ('projection', 'proj'),
    ]
    weights = {}
    for key, value in bare('mmdet swin').named_parameters():
        for ours, released in names:
            key = key.replace(ours, released)
        weights[key] = torch.randn_like(value)
    torch.save({'model': weights}, tmp_path / 'swin.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    options = dict(convert_weights=True, init_cfg=init_cfg)
    model = build('mmdet swin', host=options)
    host = MODELS.build(dict(HOSTS['mmdet swin'], convert_weights=True))
    host.init_cfg = model.init_cfg
    model.init_weights(), host.init_weights()
    for key, value in host.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    x = torch.randn(1, 3, 70, 98)
    assert all(map(torch.equal, outputs_of(model, x), outputs_of(host, x)))


@each_host
def test_channels_and_strides_describe_the_outputs(name):
    model = evaluated(build(name, pyramid=None))
    assert model.strides == (4, 8, 16, 32)
    for size in [(64, 96), (65, 97), (33, 40)]:
        with torch.no_grad():
            outputs = model(torch.randn(2, 3, *size))
        for y, channels, stride in zip(
            outputs, model.channels, model.strides, strict=True
        ):
            assert y.shape == (2, channels, *(-(-s // stride) for s in size))


@pytest.mark.parametrize('indices', [(0, 1, 2, 3), -1])
def test_pyramid_of_one_stride_trains(indices):
    model = build('vit', host=dict(out_indices=indices), pyramid=None)
    loss_of(model(torch.randn(2, 3, 64, 96))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert any(n.startswith('pyramid.') for n in model.state_dict())


@each_host
def test_bfloat16_autocast_is_finite_forward_and_backward(name):
    model = build(name, start='published', pyramid=None)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = loss_of(y.float() for y in model(torch.randn(2, 3, 64, 96)))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@each_host
def test_a_copy_is_independent(name):
    model = evaluated(build(name, start='published'))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, twin = model(x), copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        model(torch.randn(1, 3, 96, 64))
        assert all(map(torch.equal, twin(x), expected))


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_host_is_found_in_the_scope_of_the_config(scope):
    cfg = dict(type='mmssm.SSM2DHost', host=dict(type='SwinTransformer', **SWIN))
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg)
    assert type(model).__module__ == f'{scope}.models.backbones.swin'


def test_options_reach_the_layer(monkeypatch):
    given = []

    def layer(channels, **options):
        given.append(options)
        return nn.Identity()

    monkeypatch.setattr(adding, 'SSM2D', layer)
    options = dict(
        num_states=3,
        num_ssms=2,
        directions=2,
        complex_states=True,
        skip=True,
        norm=True,
        kernel_size=5,
        tolerance=1e-3,
        decay_A=False,
        keep_kernels=False,
    )
    build('convnext', **options)
    assert given == [options] * 5


@pytest.mark.parametrize(
    'cfg', [dict(type='mmdet.ResNet', depth=18), dict(type='mmssm.SpatialMamba')]
)
def test_a_host_without_a_place_is_refused_with_the_places(cfg):
    with pytest.raises(ValueError, match="no block with a place.*'attention'.*'conv'"):
        ssm2d_host.SSM2DHost(cfg)


def test_a_place_that_the_host_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match="place is 'conv'.* attention, ffn, query_key"):
        build('vit', place='conv')
    with pytest.raises(ValueError, match="place is 'head'"):
        build('mit', place='head')


def test_other_bad_options_are_named():
    with pytest.raises(ValueError, match="start is 'zero'; expected one of"):
        build('vit', start='zero')
    with pytest.raises(ValueError, match='directions'):
        build('vit', directions=3)
    with pytest.raises(ValueError, match='channels .* strides'):
        build('mmdet swin', pyramid=True)
    with pytest.raises(ValueError, match='3 maps'):
        build('vit', host=dict(out_indices=(0, 1, 2)), pyramid=None)
    with pytest.raises(ValueError, match='stride 14'):
        build('vit', host=dict(patch_size=14), pyramid=None)
    with pytest.raises(ValueError, match='output_cls_token=False'):
        build('vit', host=dict(output_cls_token=True))
    with pytest.raises(ValueError, match="mixer is 's4nd'; expected one of"):
        build('vit', mixer='s4nd')


@each_case
def test_the_moving_average_takes_the_place_of_the_layer(name, place):
    """As in the authors' tables, with an average of our own for each place."""
    model = evaluated(build(name, place=place, start='published', mixer='ema'))
    other = evaluated(build(name, place=place, start='published'))
    found = {n: type(m.ssm2d).__name__ for n, m in mixes(model).items()}
    assert set(found.values()) == {'ExponentialMovingAverage'}
    assert found.keys() == mixes(other).keys()
    assert {m.ssm2d.gamma.shape[2] for m in mixes(model).values()} == {2}
    x = torch.randn(1, 3, 64, 64)
    seen = []
    first = next(iter(mixes(model).values()))
    first.register_forward_hook(lambda mix, args, y: seen.append((args[0], y)))
    with torch.no_grad():
        assert [y.shape for y in model(x)] == [y.shape for y in other(x)]
        maps, mixed = seen[0]
        assert torch.equal(mixed, first.ssm2d(maps))
    identity = build(name, place=place, start='identity', mixer='ema')
    loss_of(outputs_of(identity, x)).backward()
    assert all(m.gain.grad is not None for m in mixes(identity).values())


class Vectors(nn.Module):
    """A ViT that gives the vectors of its class token, as mmpretrain's does."""

    def __init__(self):
        super().__init__()
        self.vit = bare('vit', output_cls_token=True)

    def forward(self, x):
        return tuple(vector for _, vector in self.vit(x))


def test_vectors_of_a_classifier_are_left_as_they_are():
    x = torch.randn(2, 3, 64, 64)
    host = evaluated(Vectors())
    expected = host(x)
    assert expected[0].dim() == 2
    model = SSM2DHost(host, pyramid=False, num_states=2)
    assert all(map(torch.equal, model(x), expected))
    assert len(mixes(model)) == 4
    assert not hasattr(model, 'strides')
    with pytest.raises(ValueError, match='gives something else than maps'):
        SSM2DHost(Vectors(), num_states=2)
