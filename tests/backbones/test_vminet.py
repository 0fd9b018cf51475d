"""mmssm.VMINet against the official outputs and gradients, and at other sizes."""

import json
from argparse import Namespace

import golden
import pytest
import torch
from parity import DOUBLE, assert_equal_in_double
from torch import nn

from mmssm.backbones import VMINet
from mmssm.layers.separable_attention import RESAMPLE
from mmssm.weights import from_official, save_file

TINY = {'channels': 8, 'depths': (1, 1, 2, 1), 'expand': 2}


def official_weights():
    """Of the classifier, head included."""
    keys = json.loads((golden.DATA / 'vminet_tiny_keys.json').read_text())
    return {name: golden.weight(name, tuple(shape)) for name, shape in keys}


@pytest.fixture(scope='module')
def data():
    return golden.load('vminet_tiny')


def build(mode='eval', **options):
    model = VMINet(TINY, train_size=64, **options).double().train(mode != 'eval')
    model.load_state_dict(from_official(official_weights(), 'vminet'))
    return model


@pytest.mark.parametrize('resample', [r for r in RESAMPLE if r != 'mean'])
@pytest.mark.parametrize('mode', ['eval', 'train', 'train_bn_eval'])
def test_official_outputs_at_the_trained_size(data, mode, resample):
    model = build(mode, norm_eval=mode == 'train_bn_eval', resample=resample)
    x = golden.image(1 if mode == 'eval' else 2, 3, 64, 64).double()
    with torch.no_grad():
        outputs = model(x)
    for index, output in enumerate(outputs):
        assert_equal_in_double(output, data[f'{mode}/stage{index}'], f'stage {index}')
    prefix = f'{mode}/bn_after/'
    moments = {
        name.removeprefix(prefix): value
        for name, value in data.items()
        if name.startswith(prefix)
    }
    assert len(moments) == (30 if mode == 'train' else 0)
    full = from_official(official_weights() | moments, 'vminet')
    for name, value in model.state_dict().items():
        if 'running' in name:
            assert_equal_in_double(value, full[name], name)


class Classifier(nn.Module):
    """The head of the released code, for whose logits the gradients are stored."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(64), nn.Linear(64, 10)
        weights = official_weights()
        for name in self.state_dict():
            self.get_submodule(name.split('.')[0]).load_state_dict(
                {name.split('.')[1]: weights[name]}, strict=False
            )

    def forward(self, x):
        return self.head(self.norm(x).mean((2, 3)))


def test_official_gradients(data):
    model, classifier = build('train'), Classifier().double()
    x = golden.image(2, 3, 64, 64).double().requires_grad_()
    logits = classifier(model(x)[-1])
    loss = (logits * golden.cotangent(logits, 'cot0')).sum()
    loss.backward()
    assert_equal_in_double(loss, data['grad/loss'], 'loss')
    assert_equal_in_double(x.grad[:, :, ::5, ::5], data['grad/input'], 'input')
    prefix = 'grad/param/'
    stored = {k.removeprefix(prefix): v for k, v in data.items() if prefix in k}
    unknown = {
        name: torch.full(weight.shape, torch.nan)
        for name, weight in official_weights().items()
    }
    expected = from_official(unknown | stored, 'vminet')
    compared = 0
    for name, parameter in model.named_parameters():
        if not expected[name].isnan().any():
            compared += 1
            if expected[name].abs().max() < DOUBLE:
                # a bias that a later batch norm takes away
                assert parameter.grad.abs().max() < DOUBLE
            else:
                assert_equal_in_double(parameter.grad, expected[name], name)
    assert compared > 80


@pytest.mark.parametrize(
    ('arch', 'count'),
    [('ti', 1843554), ('xs', 7054602), ('s', 12961674), ('b', 27616602)],
)
def test_released_number_of_parameters(arch, count):
    with torch.device('meta'):
        model = VMINet(arch)
    assert sum(p.numel() for p in model.parameters()) == count
    # the head of the classifier: a batch norm and 1000 classes
    width = model.channels[-1]
    classifier = {'ti': 2036938, 'xs': 7440370, 's': 13347442, 'b': 28387138}
    assert count + 2 * width + 1000 * (width + 1) == classifier[arch]


@pytest.mark.parametrize('resample', RESAMPLE)
def test_train_step_and_prediction_at_an_odd_size(resample):
    torch.manual_seed(0)
    model = VMINet(TINY, resample=resample)
    x = torch.randn(2, 3, 200, 333)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(y.square().mean() for y in model(x)).backward()
    assert all((p.grad != 0).any() for p in model.parameters())
    optimizer.step()
    outputs = model.eval()(x)
    sizes = [tuple(y.shape[2:]) for y in outputs]
    assert sizes == [(50, 84), (25, 42), (13, 21), (7, 11)]
    assert all(y.isfinite().all() for y in outputs)


@pytest.mark.parametrize(
    ('size', 'grids'),
    [
        (224, [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ((512, 1000), [(128, 250), (64, 125), (32, 63), (16, 32)]),
        (30, [(8, 8), (4, 4), (2, 2), (1, 1)]),
    ],
)
def test_train_size_sets_the_grids(size, grids):
    model = VMINet(TINY, train_size=size)
    attention = [stage.blocks[0].attention for stage in model.stages]
    assert [tuple(a.position.shape) for a in attention] == grids
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        outputs = model.eval()(torch.zeros(1, 3, height, width))
    assert [tuple(y.shape[2:]) for y in outputs] == grids


def test_released_file_loads_as_downloaded(tmp_path):
    path = tmp_path / 'XS-ckpt.pth.tar'
    average = {name: w + 1 for name, w in official_weights().items()}
    content = {
        'epoch': 299,
        'arch': 'vminet_XS',
        'state_dict': official_weights(),
        'optimizer': {'state': {}, 'param_groups': [{'lr': 1e-3}]},
        'version': 2,
        'args': Namespace(model='vminet_XS'),
        'state_dict_ema': average,
        'metric': 76.5,
    }
    torch.save(content, path)
    for key, weights in ((None, official_weights()), ('state_dict_ema', average)):
        init_cfg = {'type': 'Pretrained', 'checkpoint': str(path)}
        model = VMINet(TINY, train_size=64, init_cfg=init_cfg | {'key': key})
        model.init_weights()
        expected = from_official(weights, 'vminet')
        assert model.state_dict().keys() == expected.keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name]), name


def test_names_inside_a_detector_and_of_a_data_parallel_run():
    plain = from_official(official_weights(), 'vminet')
    inside = {f'backbone.{name}': w for name, w in official_weights().items()}
    inside = {n: w for n, w in inside.items() if '.norm' not in n and '.head' not in n}
    found = from_official({'state_dict': inside}, 'vminet')
    assert found.keys() == {f'backbone.{name}' for name in plain}
    parallel = {f'module.{name}': w for name, w in official_weights().items()}
    assert from_official(parallel, 'vminet').keys() == plain.keys()


def test_weights_of_another_variant_say_which(tmp_path):
    path = str(tmp_path / 'a.pth')
    save_file(VMINet('xs').state_dict(), path)
    cfg = {'type': 'Pretrained', 'checkpoint': path}
    with pytest.raises(ValueError, match="these are the weights of arch='xs'"):
        VMINet('s', init_cfg=cfg).init_weights()


def test_weights_of_another_train_size_are_named(tmp_path):
    path = str(tmp_path / 'a.pth')
    save_file(VMINet(TINY, train_size=64).state_dict(), path)
    cfg = {'type': 'Pretrained', 'checkpoint': path}
    with pytest.raises(ValueError, match=r'attention.position \(16, 16\) for \(32, 3'):
        VMINet(TINY, train_size=128, init_cfg=cfg).init_weights()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'arch': {**TINY, 'expand': 0}}, 'expand=0; expected an integer from 1'),
        ({'arch': {**TINY, 'expand': 1.5}}, 'expand=1.5'),
        ({'arch': {'channels': 8, 'depths': (1, 1)}}, "keys .*'expand'"),
        ({'train_size': 0}, 'train_size is 0'),
        ({'train_size': (224,)}, r'train_size is \(224,\)'),
        ({'train_size': '224'}, "train_size is '224'"),
        ({'resample': 'tile'}, "resample is 'tile'; expected one of 'bicubic'"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        VMINet(**{'arch': TINY, **options})


def test_training_on_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        VMINet(TINY, train_size=64).train()(torch.randn(1, 3, 20, 20))


def test_sync_bn_everywhere():
    model = VMINet(TINY, norm_cfg={'type': 'SyncBN'})
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 1 + 4 + 2 * 5


def test_drop_path_grows_linearly():
    model = VMINet(TINY, drop_path_rate=0.4)
    rates = [b.drop_path.rate for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
