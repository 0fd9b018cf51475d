"""Models by name, with the sizes of the papers and the interface of timm."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hubconf
import mmssm
from mmssm import zoo

# parameters of the released classifiers
SIZES = {
    'spatial_mamba_tiny': 26_748_862,
    'spatial_mamba_small': 43_074_280,
    'spatial_mamba_base': 95_745_592,
    'mila_tiny': 24_392_200,
    'mila_small': 43_015_048,
    'mila_base': 95_983_960,
    'vmamba_tiny': 30_249_064,
    'vmamba_small': 50_147_752,
    'vmamba_base': 88_557_800,
    'vminet_ti': 2_036_938,
    'vminet_xs': 7_440_370,
    'vminet_s': 13_347_442,
    'vminet_b': 28_387_138,
    'convnext_tiny': 28_589_128,
    'convnext_small': 50_223_688,
    'convnext_base': 88_591_464,
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('name', SIZES)
def test_classifiers_have_the_published_size(name):
    with torch.device('meta'):
        assert parameters(mmssm.create_model(name)) == SIZES[name]


def test_names_are_listed_by_pattern():
    names = mmssm.list_models()
    assert set(SIZES) <= set(names)
    assert mmssm.list_models('*mamba*') == [n for n in names if 'mamba' in n]
    assert mmssm.list_models('nothing*') == []


@pytest.mark.parametrize('name', mmssm.list_models('*_t*'))
def test_features_are_what_feature_info_says(name):
    model = mmssm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    info = model.feature_info
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 65, 97))
    assert [y.shape[1] for y in maps] == info.channels() == list(model.channels)
    for y, stride in zip(maps, info.reduction(), strict=True):
        assert y.shape[2:] == (-(-65 // stride), -(-97 // stride))
    assert info.channels(3) == maps[1].shape[1]
    assert info.channels([0, 3]) == [info[0]['num_chs'], info[3]['num_chs']]
    assert info.reduction(0) == 4
    assert info.module_name() == ['stages.1', 'stages.3']
    assert [d['index'] for d in info.get_dicts()] == [1, 3]
    assert len(info) == 4


def test_a_classifier_takes_any_size_and_number_of_channels():
    model = mmssm.create_model('spatial_mamba_tiny', num_classes=7, in_channels=4)
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 4, 37, 70)).shape == (2, 7)


def test_options_reach_the_backbone():
    model = mmssm.create_model('vminet_ti', features_only=True, resample='window')
    assert model.stages[0].blocks[0].attention.resample == 'window'


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'name': 'spatial_mamba_huge'}, "no model 'spatial_mamba_huge'; expected one"),
        ({'features_only': True, 'num_classes': 5}, 'num_classes is 5 and'),
        ({'out_indices': (3,)}, r'out_indices is \(3,\), but a classifier'),
    ],
)
def test_what_cannot_be_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        mmssm.create_model(**{'name': 'vminet_ti', **arguments})


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match='depth'):
        mmssm.create_model('vminet_ti', depth=3)


def test_hubconf_has_every_model():
    assert set(zoo.MODELS) <= set(dir(hubconf))
    root = str(Path(hubconf.__file__).parent)
    model = torch.hub.load(root, 'vminet_ti', source='local', num_classes=2)
    assert model.head.out_features == 2


def test_nothing_of_openmmlab_is_imported():
    code = (
        'import sys, mmssm\n'
        "mmssm.create_model('vminet_ti'); mmssm.count_macs\n"
        "wrong = [m for m in sys.modules if m.split('.')[0] in "
        "('mmengine', 'mmcv', 'mmdet', 'mmseg')]\n"
        'assert not wrong, wrong'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
