"""Layers of hosts, for learning rates that fall towards the first one."""

import pytest
from known_hosts import each_host, plain
from torch import nn

from mmssm.backbones import ConvNeXt
from mmssm.hosts import HostLayers, add_ssm2d


def test_layers_are_those_that_our_backbones_tell():
    for _ in range(2):
        model = ConvNeXt(arch=dict(channels=4, depths=(1, 2, 3, 1)))
        layers = HostLayers(model)
        assert layers.num_layers == model.num_layers
        for name, _ in model.named_parameters():
            assert layers.layer_id(name) == model.layer_id(name), name


@each_host
def test_layers_grow_from_the_patches_to_the_head(name):
    model = add_ssm2d(plain(name), ssm2d=dict(num_states=2))
    layers = HostLayers(model)
    found = {n: layers.layer_id(n) for n, _ in model.named_parameters()}
    # some have nothing after the last block
    used, last = set(found.values()), layers.num_layers - 1
    assert used in (set(range(last)), set(range(last + 1)))
    plain_layers = HostLayers(plain(name))
    assert plain_layers.num_layers == layers.num_layers
    for key, _ in plain(name).named_parameters():
        assert plain_layers.layer_id(key) == found[key]
    first = ('patch_embed', 'stem', 'cls_token', 'pos_embed', 'downsample_layers.0')
    for key, layer in found.items():
        if key.startswith((*first, 'layers.0.0.')):
            assert layer == 0 or 'mix' in key or key.startswith('layers.0.0.mlp'), key
        if key.startswith(('head', 'norm', 'out_norms', 'ln1')):
            last = name.startswith(('timm', 'mm')) and 'maxvit' not in name
            assert layer == layers.num_layers - 1 or not last, key


def test_networks_and_names_that_are_not_known():
    with pytest.raises(ValueError, match='Linear has no blocks'):
        HostLayers(nn.Linear(1, 1))
    with pytest.raises(KeyError, match="no parameter 'stem'"):
        HostLayers(plain('mmssm convnext')).layer_id('stem')
