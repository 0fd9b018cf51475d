"""The classifiers of the papers over the backbones, against the official logits."""

import json
import re

import golden
import pytest
import torch
from parity import assert_equal_in_double

from mmssm.backbones import MILA, Classifier, ConvNeXt, SpatialMamba, VMamba, VMINet

CLASSES = 10
FAMILIES = {
    'mila': (
        MILA,
        {'arch': {'channels': 16, 'depths': (1, 1, 2, 1), 'heads': 1}},
    ),
    'spatial_mamba': (SpatialMamba, {'arch': {'channels': 16, 'depths': (1, 1, 2, 1)}}),
    'vmamba': (
        VMamba,
        {'arch': {'channels': 16, 'depths': (1, 1, 2, 1), 'expand': 1}},
    ),
    'vminet': (
        VMINet,
        {
            'arch': {'channels': 8, 'depths': (1, 1, 2, 1), 'expand': 2},
            'train_size': 64,
        },
    ),
}
LOGITS = (
    golden.load('logits')
    | golden.load('logits_vmamba')
    | {
        name.replace('logits', 'mila'): logits
        for name, logits in golden.load('mila_tiny').items()
        if name.startswith('logits/')
    }
)


def official_file(family, tmp_path, classes=CLASSES):
    """A released classifier: official names, in the way its authors save it."""
    keys = json.loads((golden.DATA / f'{family}_tiny_keys.json').read_text())
    shapes = {name: tuple(shape) for name, shape in keys}
    last = 64 if family == 'vminet' else 128
    inside = 'classifier.' if family == 'vmamba' else ''
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        if family == 'vminet' or not name.startswith('running'):
            shapes[f'{inside}norm.{name}'] = (last,)
    if family == 'vminet':
        shapes['norm.num_batches_tracked'] = ()
    shapes[f'{inside}head.weight'] = (classes, last)
    shapes[f'{inside}head.bias'] = (classes,)
    weights = {
        name: golden.weight(name, shape)
        for name, shape in shapes.items()
        if not re.match(r'(out)?norm\d', name)
    }
    path = tmp_path / 'released.pth'
    torch.save({'model': weights, 'epoch': 299}, path)
    return path


def build(family, classes=CLASSES):
    cls, options = FAMILIES[family]
    return Classifier(cls(out_indices=(-1,), **options), classes)


@pytest.mark.parametrize('case', LOGITS)
def test_official_logits(case, tmp_path):
    family, rest = case.split('/')
    mode, size = rest.rsplit('_', 1)
    model = build(family).double()
    model.load_pretrained(official_file(family, tmp_path))
    model.train(mode != 'eval')
    if mode == 'train_bn_eval':
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    shape = map(int, size.split('x'))
    logits = model(golden.image(*shape).double())
    assert_equal_in_double(logits, LOGITS[case], case)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_head_for_other_classes_starts_anew(family, tmp_path):
    model = build(family, classes=3)
    before = model.head.weight.clone()
    with pytest.warns(UserWarning, match='for 10 classes and the model one for 3'):
        model.load_pretrained(official_file(family, tmp_path))
    assert torch.equal(model.head.weight, before)
    stem = next(model.backbone.stem.parameters())
    assert not torch.equal(stem, next(build(family).backbone.stem.parameters()))


@pytest.mark.parametrize('family', FAMILIES)
def test_own_file_and_one_of_mmpretrain_give_the_same(family, tmp_path):
    model = build(family).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(model.state_dict(), tmp_path / 'ours.pth')
    renamed = {
        name.replace('norm.', 'backbone.out_norms.3.', 1)
        if name.startswith('norm.')
        else name.replace('head.', 'head.fc.'): weight
        for name, weight in model.state_dict().items()
    }
    torch.save({'state_dict': renamed}, tmp_path / 'mmpretrain.pth')
    x = torch.randn(2, 3, 33, 41)
    for name in ('ours', 'mmpretrain'):
        other = build(family).eval()
        other.load_pretrained(tmp_path / f'{name}.pth')
        assert torch.equal(other(x), model(x))


def test_the_norm_of_convnext_follows_the_mean():
    arch = {'channels': 8, 'depths': (1, 1, 1, 1)}
    model = Classifier(ConvNeXt(arch, out_indices=(-1,)), 5).double()
    with torch.no_grad():
        model.norm.weight.uniform_(1, 2)
        model.norm.bias.normal_()
    x = torch.randn(2, 3, 40, 72).double()
    *_, last = model.backbone.maps(x)
    mean = last.mean((2, 3))
    deviation = mean - mean.mean(1, keepdim=True)
    unit = deviation / (deviation.square().mean(1, keepdim=True) + 1e-6).sqrt()
    expected = unit * model.norm.weight + model.norm.bias
    assert_equal_in_double(model.features(x), expected)


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save({'head.weight': torch.zeros(10, 128)}, tmp_path / 'broken.pth')
    with pytest.raises(ValueError, match=r'broken\.pth.*missing .*backbone\.stages'):
        build('spatial_mamba').load_pretrained(tmp_path / 'broken.pth')


@pytest.mark.parametrize('classes', [0, -1, 2.5, None])
def test_a_number_of_classes_that_is_none_is_named(classes):
    with pytest.raises(ValueError, match='num_classes is'):
        build('vminet', classes)
