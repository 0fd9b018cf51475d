"""The released Swin, ViT and Mega with a 2-D SSM give their outputs in our hosts."""

import importlib
import json

import golden
import numpy as np
import pytest
import torch
from parity import assert_equal_in_double

from mmssm.backbones import Mega
from mmssm.hosts import SSM2DHost
from mmssm.layers import SSM2D
from mmssm.weights import detect_family, from_official

SSM = dict(start='published', num_states=4, num_ssms=2, pyramid=False)
SWIN = dict(
    type='mmdet.SwinTransformer',
    pretrain_img_size=32,
    embed_dims=16,
    patch_size=2,
    window_size=4,
    mlp_ratio=2,
    depths=(2, 1),
    num_heads=(2, 4),
    strides=(2, 2),
    out_indices=(0, 1),
    use_abs_pos_embed=True,
)
VIT = dict(
    type='mmseg.VisionTransformer',
    img_size=32,
    patch_size=4,
    patch_bias=True,
    embed_dims=24,
    num_layers=2,
    num_heads=3,
    mlp_ratio=2,
)
MEGA = dict(
    channels=(24,) * 4, depths=(1, 1, 1, 2), patch=4, shared=12, expanded=32, hidden=40
)
PLACES = {'swin': ['stages.0.blocks.1', 'stages.1.blocks.0'], 'vit': ['layers.1']}


def weight(name, shape):
    """Value of a parameter under its released name."""
    mean = 1 if name.endswith(('norm.weight', 'norm1.weight', 'norm2.weight')) else 0
    values = mean + 0.4 * golden.noise(name, int(np.prod(shape)))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def released(name):
    keys = json.loads((golden.DATA / 'ssm2d_hosts_keys.json').read_text())
    return {key: weight(key, shape) for key, shape in keys[name]}


@pytest.mark.parametrize(
    ('name', 'host', 'options'),
    [
        ('swin', SWIN, {}),
        ('swin_ffn', SWIN, dict(place='ffn', complex_states=True, directions=2)),
        ('vit', VIT, {}),
        ('vit_ffn', VIT, dict(place='ffn', directions=2, skip=True, norm=True)),
    ],
)
def test_released_hosts(name, host, options):
    pytest.importorskip('mmseg')
    importlib.import_module('mmssm.registry')  # by which hosts are built
    family = f'ssm2d_{name[:4].strip("_")}'
    assert detect_family(released(name)) == family
    model = SSM2DHost(host, **SSM, **options).double()
    model.eval()
    keys = model.load_state_dict(from_official(released(name), family), strict=False)
    assert keys.unexpected_keys == []
    for key in keys.missing_keys:  # what the host adds
        assert key.startswith(('norm0', 'norm1')) or key.endswith('position_index')

    data, found = golden.load('ssm2d_hosts'), []
    for place in PLACES[family.removeprefix('ssm2d_')]:
        block = model.get_submodule(place)
        block.register_forward_hook(lambda module, args, y: found.append(y))
    with torch.no_grad():
        model(golden.image(1, 3, 32, 32).double())
    expected = [data[key] for key in sorted(data) if key.startswith(f'{name}/')]
    for y, value in zip(found, expected, strict=True):
        assert_equal_in_double(y, value)


@pytest.mark.parametrize(
    ('name', 'mixer'), [('none', 'none'), ('ema', 'ema'), ('ssm_2d', 'ssm2d')]
)
def test_released_mega(name, mixer):
    weights = released(f'mega_{name}')
    assert detect_family(weights) == 'ssm2d_mega'
    model = Mega(MEGA, mixer, num_states=4, num_ssms=2, train_size=32).double().eval()
    keys = model.load_state_dict(from_official(weights, 'ssm2d_mega'), strict=False)
    assert keys.unexpected_keys == []
    assert all(key.startswith('out_norms.') for key in keys.missing_keys)
    assert not any(key.startswith('out_norms.3.norm') for key in keys.missing_keys)

    found = []
    norm = model.out_norms['3'].norm
    norm.register_forward_hook(lambda module, args, y: found.append(y))
    with torch.no_grad():
        model(golden.image(1, 3, 32, 32).double())
    expected = golden.load('ssm2d_hosts')[f'mega_{name}/normed']
    assert_equal_in_double(found[0].flatten(2).mT, expected)


@pytest.mark.parametrize('complex_states', [False, True])
def test_released_layer(complex_states):
    model = 'swin_ffn' if complex_states else 'swin'
    prefix = 'layers.0.blocks.0.' + ('mlp.move.' if complex_states else 'move.')
    weights = {
        name.removeprefix(prefix): value
        for name, value in released(model).items()
        if name.startswith(prefix)
    }
    assert detect_family(weights) == 'ssm2d'
    directions, channels = (2, 32) if complex_states else (4, 16)
    layer = SSM2D(channels, 4, 2, directions, complex_states, skip=True)
    layer.load_state_dict(from_official(weights, 'ssm2d'))
    for key, rows in (('A_angle', 0), ('A_radius', 1)) if complex_states else ():
        assert torch.equal(layer.A[2, ..., rows], weights[f'{key}.A_3'])
    assert torch.equal(layer.B[1], weights['B_2'])
    assert torch.equal(layer.C[0], weights['C_1'])


def test_a_layer_with_missing_arrays_is_named():
    weights = released('swin')
    del weights['layers.0.blocks.1.move.A.A_3']
    with pytest.raises(ValueError, match='lacks .*stages.0.blocks.1.*A_3'):
        from_official(weights, 'ssm2d_swin')
