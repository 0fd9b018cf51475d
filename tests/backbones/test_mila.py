"""mmssm.MILA against the official outputs, gradients and sizes."""

import json

import golden
import pytest
import torch
from parity import DOUBLE, assert_equal_in_double
from torch import nn

from mmssm.backbones import MILA
from mmssm.weights import from_official, save_file

TINY = {'channels': 16, 'depths': (1, 1, 2, 1), 'heads': 1}


def official_weights():
    """Of the backbone, with its tables of rotations."""
    keys = json.loads((golden.DATA / 'mila_tiny_keys.json').read_text())
    return {name: golden.weight(name, tuple(shape)) for name, shape in keys}


@pytest.fixture(scope='module')
def data():
    return golden.load('mila_tiny')


def build(mode='eval', **options):
    model = MILA(TINY, **options).double().train(mode != 'eval')
    model.load_state_dict(from_official(official_weights(), 'mila'))
    return model


@pytest.mark.parametrize(
    ('mode', 'shape'),
    [('eval', (2, 3, 70, 90)), ('train', (1, 3, 64, 64)), ('train', (2, 3, 70, 90))],
)
def test_official_outputs(data, mode, shape):
    model = build(mode)
    with torch.no_grad():
        outputs = model(golden.image(*shape).double())
    case = f'{mode}/{"x".join(map(str, shape))}'
    for index, output in enumerate(outputs):
        assert_equal_in_double(output, data[f'{case}/stage{index}'], f'stage {index}')
    prefix = f'{case}/bn_after/'
    moments = {k.removeprefix(prefix): v for k, v in data.items() if prefix in k}
    assert len(moments) == (16 if mode == 'train' else 0)
    full = from_official(official_weights() | moments, 'mila')
    for name, value in model.state_dict().items():
        if 'running' in name:
            assert_equal_in_double(value, full[name], name)


def test_official_gradients(data):
    model = build('train')
    x = golden.image(2, 3, 70, 90).double().requires_grad_()
    outputs = model(x)
    parts = [(y * golden.cotangent(y, f'cot{i}')).sum() for i, y in enumerate(outputs)]
    loss = sum(parts)
    loss.backward()
    assert_equal_in_double(loss, data['grad/loss'], 'loss')
    assert_equal_in_double(x.grad[:, :, ::5, ::5], data['grad/input'], 'input')

    prefix = 'grad/param/'
    stored = {k.removeprefix(prefix): v for k, v in data.items() if prefix in k}
    unknown = {
        name: torch.full(weight.shape, torch.nan)
        for name, weight in official_weights().items()
    }
    expected = from_official(unknown | stored, 'mila')
    compared = 0
    for name, parameter in model.named_parameters():
        if not expected[name].isnan().any():
            compared += 1
            if expected[name].abs().max() < DOUBLE:
                # a bias that a later batch norm takes away
                assert parameter.grad.abs().max() < DOUBLE
            else:
                assert_equal_in_double(parameter.grad, expected[name], name)
    assert compared > 100


@pytest.mark.parametrize(
    ('arch', 'count'), [('tiny', 23880096), ('small', 42502944), ('base', 95216304)]
)
def test_released_number_of_parameters(arch, count):
    with torch.device('meta'):
        model = MILA(arch)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize('size', [(70, 90), (1, 30), (67, 5)])
def test_padding_is_zeros_below_and_to_the_right(size):
    model = build()
    x = golden.image(1, 3, *size).double()
    padded = nn.functional.pad(x, (0, -size[1] % 4, 0, -size[0] % 4))
    for y, expected in zip(model(x), model(padded), strict=True):
        assert_equal_in_double(y, expected)


def test_train_step_and_prediction_at_an_odd_size():
    torch.manual_seed(0)
    model = MILA(TINY)
    x = torch.randn(2, 3, 200, 333)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(y.square().mean() for y in model(x)).backward()
    assert all((p.grad != 0).any() for p in model.parameters())
    optimizer.step()
    outputs = model.eval()(x)
    sizes = [tuple(y.shape[2:]) for y in outputs]
    assert sizes == [(50, 84), (25, 42), (13, 21), (7, 11)]
    assert all(y.isfinite().all() for y in outputs)


def test_released_file_loads_at_any_size_of_its_tables(tmp_path):
    path = tmp_path / 'MLLA_T.pth'
    released = official_weights()
    for name, table in released.items():
        if name.endswith('rotations'):
            released[name] = table.new_full((7, *table.shape[1:]), torch.nan)
    head = {'norm.weight': torch.ones(128), 'head.weight': torch.ones(10, 128)}
    without = {k: v for k, v in released.items() if not k.startswith('norm')}
    torch.save({'model': without | head, 'epoch': 299}, path)
    model = MILA(TINY, init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    model.init_weights()
    expected = from_official(official_weights(), 'mila')
    assert model.state_dict().keys() == expected.keys()
    for name, value in model.state_dict().items():
        if not name.startswith('out_norms.'):
            assert torch.equal(value, expected[name]), name


def test_names_inside_a_detector_and_of_a_data_parallel_run():
    plain = from_official(official_weights(), 'mila')
    inside = {f'backbone.{name}': w for name, w in official_weights().items()}
    inside['neck.conv.weight'] = torch.zeros(3)
    found = from_official({'state_dict': inside}, 'mila')
    assert found.keys() == {f'backbone.{name}' for name in plain} | {'neck.conv.weight'}
    parallel = {f'module.{name}': w for name, w in official_weights().items()}
    assert from_official(parallel, 'mila').keys() == plain.keys()


def test_weights_of_another_variant_say_which(tmp_path):
    path = str(tmp_path / 'a.pth')
    save_file(MILA('tiny').state_dict(), path)
    cfg = {'type': 'Pretrained', 'checkpoint': path}
    with pytest.raises(ValueError, match="these are the weights of arch='tiny'"):
        MILA('small', init_cfg=cfg).init_weights()


@pytest.mark.parametrize(
    ('heads', 'words'),
    [
        ((1, 2, 4), r'4 depths .* 3 heads'),
        (0, 'heads='),
        ('many', "heads='many'"),
        (3, 'heads=3'),
    ],
)
def test_heads_that_do_not_fit_are_named(heads, words):
    with pytest.raises(ValueError, match=words):
        MILA({**TINY, 'heads': heads})


def test_channels_that_cannot_turn_are_named():
    with pytest.raises(ValueError, match='heads=1; .* multiples of 4'):
        MILA({**TINY, 'channels': 6})


def test_drop_path_grows_linearly():
    model = MILA(TINY, drop_path_rate=0.4)
    rates = [b.drop_path.rate for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_released_initialisation():
    torch.manual_seed(0)
    model = MILA('tiny')
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 18 * 6
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert linear.bias.abs().max() == 0
    depthwise = model.stages[1].blocks[0]
    for conv in (depthwise.position1, depthwise.mixer.conv, depthwise.position2):
        assert 0.32 < conv.weight.abs().max() <= 1 / 3


def test_sync_bn_in_stem_and_downsampling():
    model = MILA(TINY, norm_cfg={'type': 'SyncBN'})
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 5 + 3
