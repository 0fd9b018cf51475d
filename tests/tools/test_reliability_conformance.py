"""The frameworks' own configs take every backbone, and a wrong one is found."""

import pytest
import torch
from torch import nn

from mmssm.backbones import SpatialMamba
from tools.reliability import conformance, stock
from tools.reliability.check import Clock

SMALL = {'mmseg': ['SegFormer'], 'mmdet': ['RTMDet']}


@pytest.fixture
def few(monkeypatch):
    """Two frameworks and one backbone."""
    for package, names in SMALL.items():
        chosen = {name: stock.CONFIGS[package][name] for name in names}
        monkeypatch.setitem(conformance.CONFIGS, package, chosen)
    one = {'SpatialMamba': conformance.BACKBONES['SpatialMamba']}
    monkeypatch.setattr(conformance, 'BACKBONES', one)


def outcome(package):
    (check,) = (c for c in conformance.checks() if f' {package},' in c.title)
    return check.run(Clock(60), 0)


def test_a_segmenter_and_a_detector(few):
    assert outcome('mmseg') == (1, [], '')
    # its neck joins maps of different sizes, whatever the backbone
    assert outcome('mmdet') == (1, [], 'with ResNet neither: RTMDet (odd)')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda y: y.detach(), 'no gradient for backbone.'),
        (lambda y: y / y.detach().abs() * 0, 'all gradients of the backbone are zero'),
        (lambda y: y * float('nan'), 'the loss is nan'),
        (lambda y: y[:, 1:], 'RuntimeError'),
    ],
)
def test_a_wrong_backbone_is_found(few, monkeypatch, change, words):
    plain = SpatialMamba.forward
    monkeypatch.setattr(
        SpatialMamba, 'forward', lambda self, x: tuple(map(change, plain(self, x)))
    )
    tried, failures, remark = outcome('mmseg')
    assert (tried, remark) == (1, '')
    assert [f.split(':')[0] for f in failures] == [
        'SegFormer, SpatialMamba, even',
        'SegFormer, SpatialMamba, odd',
    ]
    assert all(words in failure for failure in failures), failures


def test_a_parameter_that_is_left_out_is_found(few, monkeypatch):
    plain = SpatialMamba.__init__

    def make(self, *arguments, **options):
        plain(self, *arguments, **options)
        self.lost = nn.Parameter(torch.ones(1))

    monkeypatch.setattr(SpatialMamba, '__init__', make)
    assert 'no gradient for backbone.lost' in outcome('mmseg').failures[0]


def test_a_package_that_is_absent(monkeypatch):
    monkeypatch.setattr(conformance.importlib.util, 'find_spec', lambda name: None)
    assert outcome('mmrotate') == (0, [], 'mmrotate is not installed')


def fitted(package, name):
    model = stock.model_of(package, name)
    return stock.fitted(model, lambda levels: {'levels': levels}, (1, 2, 3, 4))


def test_levels_that_are_read():
    retina = fitted('mmdet', 'RetinaNet')
    assert retina['backbone'] == {'levels': (1, 2, 3)}
    assert retina['neck']['in_channels'] == [2, 3, 4]
    assert retina['neck']['start_level'] == 0
    fcn = fitted('mmseg', 'FCN')
    assert fcn['backbone'] == {'levels': (2, 3)}
    heads = fcn['decode_head'], fcn['auxiliary_head']
    assert [(h['in_index'], h['in_channels']) for h in heads] == [(1, 4), (0, 3)]
    deeplab = fitted('mmseg', 'DeepLabV3+')
    assert deeplab['backbone'] == {'levels': (0, 2, 3)}
    assert deeplab['decode_head']['c1_in_channels'] == 1
    assert fitted('mmdet', 'DETR')['backbone'] == {'levels': (3,)}
