"""mmssm.SpatialMamba against the official outputs, gradients and sizes."""

import json

import golden
import pytest
import torch
from parity import assert_equal_in_double

from mmssm.backbones import SpatialMamba
from mmssm.weights import from_official

TINY = {'channels': 16, 'depths': (1, 1, 2, 1)}


def official_weights():
    keys = json.loads((golden.DATA / 'spatial_mamba_tiny_keys.json').read_text())
    return {name: golden.weight(name, tuple(shape)) for name, shape in keys}


@pytest.fixture(scope='module')
def data():
    return golden.load('spatial_mamba_tiny')


def build(mode, **options):
    model = SpatialMamba(TINY, **options).double().train(mode != 'eval')
    model.load_state_dict(from_official(official_weights(), 'spatial_mamba'))
    return model


@pytest.mark.parametrize(
    ('mode', 'size'),
    [
        ('eval', (64, 64)),
        ('train', (64, 64)),
        ('train', (96, 160)),
        ('train_bn_eval', (64, 64)),
    ],
)
def test_official_outputs(data, mode, size):
    model = build(mode, norm_eval=mode == 'train_bn_eval')
    with torch.no_grad():
        outputs = model(golden.image(1, 3, *size).double())
    case = f'{mode}/1x3x{size[0]}x{size[1]}'
    for index, output in enumerate(outputs):
        assert_equal_in_double(output, data[f'{case}/stage{index}'], f'stage {index}')
    if mode == 'train':
        moments = {
            key.removeprefix(f'{case}/bn_after/'): value
            for key, value in data.items()
            if key.startswith(f'{case}/bn_after/')
        }
        full = official_weights() | moments
        for name, expected in from_official(full, 'spatial_mamba').items():
            if 'running' in name:
                assert_equal_in_double(model.state_dict()[name], expected, name)


def test_official_gradients(data):
    model = build('train')
    x = golden.image(2, 3, 70, 90).double().requires_grad_()
    outputs = model(x)
    parts = [(y * golden.cotangent(y, f'cot{i}')).sum() for i, y in enumerate(outputs)]
    sum(parts).backward()
    assert_equal_in_double(x.grad[:, :, ::5, ::5], data['grad/input'], 'input')

    prefix = 'grad/param/'
    stored = {k.removeprefix(prefix): v for k, v in data.items() if prefix in k}
    assert len(stored) > 40
    unknown = {
        name: torch.full(weight.shape, torch.nan)
        for name, weight in official_weights().items()
    }
    expected = from_official(unknown | stored, 'spatial_mamba')
    for name, parameter in model.named_parameters():
        if not expected[name].isnan().any():
            assert_equal_in_double(parameter.grad, expected[name], name)


@pytest.mark.parametrize(
    ('arch', 'count'), [('tiny', 26236758), ('small', 42562176), ('base', 94977936)]
)
def test_published_number_of_parameters(arch, count):
    with torch.device('meta'):
        model = SpatialMamba(arch)
    assert sum(p.numel() for p in model.parameters()) == count


def test_drop_path_grows_linearly():
    model = SpatialMamba(TINY, drop_path_rate=0.4)
    rates = [b.drop_path.rate for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_ordinary_initialisation_of_the_convolutions():
    model = SpatialMamba('tiny')
    depthwise = model.stages[1].blocks[0].position1
    assert depthwise.weight.abs().max() <= 1 / 3
    assert depthwise.weight.abs().max() > 0.32
    assert model.stages[0].blocks[0].mlp.fc1.bias.abs().max() == 0


def test_sync_bn_in_stem_and_downsampling():
    model = SpatialMamba(TINY, norm_cfg={'type': 'SyncBN'})
    norms = [m for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert len(norms) == 5 + 3
