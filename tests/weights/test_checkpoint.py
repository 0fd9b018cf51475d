"""Files are read safely, official names become ours, and nothing fails silently."""

import json
import os
import pickle
import threading
from argparse import Namespace

import golden
import pytest
import torch

from mmssm.backbones import SpatialMamba
from mmssm.weights import (
    detect_family,
    from_official,
    load_file,
    load_weights,
    save_file,
)

TINY = {'channels': 16, 'depths': (1, 1, 2, 1)}
FAMILY = 'spatial_mamba'


@pytest.fixture
def official():
    keys = json.loads((golden.DATA / 'spatial_mamba_tiny_keys.json').read_text())
    return {name: golden.weight(name, tuple(shape)) for name, shape in keys}


@pytest.fixture
def classifier(official):
    features = {k: v for k, v in official.items() if not k.startswith('outnorm')}
    head = {'norm.weight': torch.ones(128), 'head.weight': torch.ones(10, 128)}
    return features | head


def model(checkpoint=None, **options):
    init_cfg = checkpoint and {
        'type': 'Pretrained',
        'checkpoint': str(checkpoint),
        **options,
    }
    return SpatialMamba(TINY, init_cfg=init_cfg)


def assert_loaded(backbone, weights):
    for name, value in backbone.state_dict().items():
        if name in weights:
            assert torch.equal(value, weights[name]), name


def test_names_of_a_backbone_become_ours(official):
    assert from_official(official, FAMILY).keys() == model().state_dict().keys()


@pytest.mark.parametrize('outer', [None, 'model', 'state_dict'])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_outer_keys_and_prefixes(official, outer, prefix):
    named = {prefix + name: w for name, w in official.items()}
    checkpoint = {outer: named, 'epoch': 3} if outer else named
    assert from_official(checkpoint, FAMILY).keys() == model().state_dict().keys()


def test_names_of_a_detector_keep_its_other_parts(official):
    detector = {f'backbone.{name}': w for name, w in official.items()}
    detector['neck.conv.weight'] = torch.ones(1)
    ours = from_official({'state_dict': detector}, FAMILY)
    expected = {f'backbone.{name}' for name in model().state_dict()}
    assert ours.keys() == expected | {'neck.conv.weight'}


def test_head_of_a_classifier_is_left_out(classifier):
    missing = model().state_dict().keys() - from_official(classifier, FAMILY).keys()
    assert {name.split('.')[0] for name in missing} == {'out_norms'}
    assert not from_official(classifier, FAMILY).keys() - model().state_dict().keys()


def test_the_input_is_not_changed(official):
    before = dict(official)
    from_official(official, FAMILY)
    assert official.keys() == before.keys()


def test_family_is_recognised(official):
    assert detect_family(official) == FAMILY
    assert detect_family({f'backbone.{n}': w for n, w in official.items()}) == FAMILY
    assert detect_family(model().state_dict()) is None
    assert detect_family({'conv1.weight': torch.ones(1)}) is None


def test_unknown_family_is_named(official):
    with pytest.raises(ValueError, match="family is 'mamba'; expected one of"):
        from_official(official, 'mamba')


def test_weights_of_another_family_are_refused():
    with pytest.raises(ValueError, match='not official .* conv1.weight'):
        from_official({'conv1.weight': torch.ones(1)}, FAMILY)


@pytest.mark.parametrize('layout', ['classifier', 'backbone', 'detector', 'ours'])
def test_init_cfg_loads_the_file_as_downloaded(layout, official, classifier, tmp_path):
    detector = {f'backbone.{n}': w for n, w in official.items()}
    content = {
        'classifier': {'model': classifier, 'epoch': 300, 'config': Namespace(a=1)},
        'backbone': official,
        'detector': {'state_dict': {**detector, 'neck.w': torch.ones(1)}},
        'ours': {'state_dict': from_official(official, FAMILY)},
    }[layout]
    path = tmp_path / 'file.pth'
    torch.save(content, path)
    backbone = model(path)
    backbone.init_weights()
    ours = from_official(official, FAMILY)
    if layout == 'classifier':
        ours = {k: v for k, v in ours.items() if not k.startswith('out_norms')}
    assert_loaded(backbone, ours)


def test_another_outer_key_can_be_chosen(official, tmp_path):
    average = {name: w + 1 for name, w in official.items()}
    save_file({'model': official, 'model_ema': average}, tmp_path / 'a.pth')
    backbone = model(tmp_path / 'a.pth', key='model_ema')
    backbone.init_weights()
    assert_loaded(backbone, from_official(average, FAMILY))
    with pytest.raises(ValueError, match="no key 'ema'; it has model, model_ema"):
        model(tmp_path / 'a.pth', key='ema').init_weights()


def test_fewer_outputs_than_the_file_has(official, tmp_path):
    save_file(official, tmp_path / 'a.pth')
    backbone = SpatialMamba(
        TINY,
        out_indices=(0, 1),
        init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth')},
    )
    backbone.init_weights()
    assert_loaded(backbone, from_official(official, FAMILY))


def test_missing_and_unexpected_keys_are_named_and_fail(official, tmp_path):
    del official['layers.2.blocks.1.mlp.fc1.bias']
    official['layers.0.blocks.0.gate'] = torch.ones(2)
    save_file(official, tmp_path / 'a.pth')
    with pytest.raises(ValueError) as caught:
        model(tmp_path / 'a.pth').init_weights()
    assert 'missing (1): stages.2.blocks.1.mlp.fc1.bias' in str(caught.value)
    assert 'unexpected (1): stages.0.blocks.0.gate' in str(caught.value)
    allowed = model(
        tmp_path / 'a.pth', allow_missing=['*.fc1.bias'], allow_unexpected=['*.gate']
    )
    allowed.init_weights()
    assert_loaded(allowed, from_official(official, FAMILY))


def test_mismatched_shapes_are_named_and_nothing_is_loaded(official):
    backbone = SpatialMamba({'channels': 8, 'depths': (1, 1, 2, 1)})
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=r'mismatched .* \(16,\) for \(8,\)'):
        load_weights(backbone, from_official(official, FAMILY))
    assert_loaded(backbone, before)


def test_weights_of_another_size_say_which(tmp_path):
    save_file(SpatialMamba('small').state_dict(), tmp_path / 'a.pth')
    cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth')}
    with pytest.raises(ValueError, match="these are the weights of arch='small'"):
        SpatialMamba('tiny', init_cfg=cfg).init_weights()


def test_other_networks_are_refused(tmp_path):
    save_file({'conv1.weight': torch.ones(1)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='unexpected .* conv1.weight'):
        model(tmp_path / 'a.pth').init_weights()


def test_no_weights_at_all(tmp_path):
    save_file({'epoch': 3}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds no weights; it has epoch'):
        model(tmp_path / 'a.pth').init_weights()


def test_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at .*a\.pth'):
        model(tmp_path / 'a.pth').init_weights()


@pytest.mark.parametrize('kept', [0, 100, 5000])
def test_truncated_file_is_named(official, tmp_path, kept):
    path = tmp_path / 'a.pth'
    save_file(official, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r'a\.pth.* is not a complete checkpoint'):
        model(path).init_weights()


class Dangerous:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.mkdir, (str(self.trap),)


def test_reading_runs_no_code(official, tmp_path):
    trap = tmp_path / 'trap'
    content = {'model': official, 'config': Dangerous(trap), 'lock': threading.Event}
    torch.save(content, tmp_path / 'a.pth', pickle_module=pickle)
    read = load_file(tmp_path / 'a.pth')
    assert not trap.exists()
    assert torch.equal(read['model']['outnorm0.bias'], official['outnorm0.bias'])


def test_state_dict_of_a_module_beside_an_object_is_read(tmp_path):
    # such a state dict carries its version in an attribute
    content = {'state_dict': model().state_dict(), 'args': Namespace(lr=0.1)}
    torch.save(content, tmp_path / 'a.pth')
    read = load_file(tmp_path / 'a.pth')['state_dict']
    assert read.keys() == content['state_dict'].keys()


def test_dtypes_and_old_files_are_read(official, tmp_path):
    content = {'model': {k: v.half() for k, v in official.items()}, 'o': Namespace()}
    path = tmp_path / 'a.pth'
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert load_file(path)['model']['outnorm0.bias'].dtype == torch.float16


def test_saving_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'a.pth'
    save_file({'w': torch.ones(1)}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_file({'w': lambda: None}, path)
    assert torch.equal(load_file(path)['w'], torch.ones(1))
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']
