"""mmssm.VMamba against the official outputs, gradients and sizes."""

import json

import golden
import pytest
import torch
from parity import assert_equal_in_double, relative_error

from mmssm.backbones import VMamba
from mmssm.weights import detect_family, from_official, save_file

TINY = {'channels': 16, 'depths': (1, 1, 2, 1), 'expand': 1}


def official_weights():
    keys = json.loads((golden.DATA / 'vmamba_tiny_keys.json').read_text())
    return {name: golden.weight(name, tuple(shape)) for name, shape in keys}


@pytest.fixture(scope='module')
def data():
    return golden.load('vmamba_tiny')


def build(**options):
    model = VMamba(TINY, **options).double()
    model.load_state_dict(from_official(official_weights(), 'vmamba'))
    return model


@pytest.mark.parametrize('shape', [(1, 3, 64, 64), (2, 3, 70, 90)])
def test_official_outputs(data, shape):
    with torch.no_grad():
        outputs = build().eval()(golden.image(*shape).double())
    case = f'eval/{"x".join(map(str, shape))}'
    for index, output in enumerate(outputs):
        assert_equal_in_double(output, data[f'{case}/stage{index}'], f'stage {index}')


def test_official_gradients(data):
    model = build().train()
    x = golden.image(2, 3, 70, 90).double().requires_grad_()
    outputs = model(x)
    parts = [(y * golden.cotangent(y, f'cot{i}')).sum() for i, y in enumerate(outputs)]
    sum(parts).backward()
    assert_equal_in_double(x.grad[:, :, ::5, ::5], data['grad/input'], 'input')

    prefix = 'grad/param/'
    stored = {k.removeprefix(prefix): v for k, v in data.items() if prefix in k}
    assert len(stored) > 80
    unknown = {
        name: torch.full(weight.shape, torch.nan)
        for name, weight in official_weights().items()
    }
    expected = from_official(unknown | stored, 'vmamba')
    for name, parameter in model.named_parameters():
        if name.endswith('.A_log'):
            # the released code takes the exponential of A in float32, always
            assert relative_error(parameter.grad, expected[name]) < 1e-6, name
        elif not expected[name].isnan().any():
            assert_equal_in_double(parameter.grad, expected[name], name)


@pytest.mark.parametrize(
    ('arch', 'count'), [('tiny', 29481408), ('small', 49380096), ('base', 87534592)]
)
def test_published_number_of_parameters(arch, count):
    with torch.device('meta'):
        model = VMamba(arch)
    assert sum(p.numel() for p in model.parameters()) == count


def test_every_official_name_has_a_place():
    model, weights = VMamba(TINY), official_weights()
    ours = from_official(weights, 'vmamba')
    assert len(ours) == len(weights)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in ours.items()} == expected


def test_names_of_earlier_released_files():
    """Projections as 1x1 convolutions, and what blocks and patches were called."""
    weights = official_weights()
    older = {}
    for name, weight in weights.items():
        if name.endswith(('proj.weight', 'fc1.weight', 'fc2.weight')):
            weight = weight[:, :, None, None]
        name = name.replace('.norm.', '.ln_1.').replace('.op.', '.self_attention.')
        older[name] = weight
    assert detect_family(older) == 'vmamba'
    found, expected = (from_official(w, 'vmamba') for w in (older, weights))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_detector_of_the_authors_loads(tmp_path):
    weights = {f'backbone.{name}': w for name, w in official_weights().items()}
    weights['neck.w'] = torch.ones(1)
    save_file({'state_dict': weights}, tmp_path / 'detector.pth')
    model = VMamba(TINY).double()
    model.load_pretrained(tmp_path / 'detector.pth')
    expected = build().state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_drop_path_grows_linearly():
    model = VMamba(TINY, drop_path_rate=0.4)
    rates = [b.drop_path.rate for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_ordinary_initialisation_of_the_convolutions():
    model = VMamba('tiny', out_indices=(1,))
    for conv in (model.stages[1].downsample.conv, model.stages[0].blocks[0].ssm.conv):
        bound = conv.weight[0].numel() ** -0.5
        assert 0.95 * bound < conv.weight.abs().max() <= bound
    assert model.stages[0].blocks[0].mlp.fc1.bias.abs().max() == 0


def test_several_states_per_channel():
    model = VMamba(TINY, num_states=4)
    assert model.stages[2].blocks[1].ssm.A_log.shape == (4, 64, 4)
    with torch.no_grad():
        assert all(y.isfinite().all() for y in model(torch.randn(1, 3, 33, 47)))


@pytest.mark.parametrize('expand', [0, 1.5, None])
def test_an_expansion_that_is_none_is_named(expand):
    with pytest.raises(ValueError, match=f'arch has expand={expand}; expected'):
        VMamba({**TINY, 'expand': expand})
