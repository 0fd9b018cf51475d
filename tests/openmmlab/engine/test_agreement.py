"""Channels and ignored labels agree from one end of a config to the other."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmssm.openmmlab.engine import UserError
from mmssm.openmmlab.engine.agreement import (
    check_agreement,
    disagreements,
    ignored_label,
    in_channels,
)

CONFIGS = Path(__file__).parents[3] / 'configs'
RGB = dict(mean=[1.0] * 3, std=[1.0] * 3)
ONE = dict(mean=[1.0], std=[1.0])


def config(head=None, preprocessor=None, **others):
    head = dict(num_classes=2) | (head or {})
    backbone = dict(type='mmssm.VMINet', arch='tiny')
    model = dict(
        backbone=backbone, data_preprocessor=preprocessor or RGB, decode_head=head
    )
    return Config(dict(default_scope='mmseg', model=model, **others))


def said(cfg, loaders=('train', 'val')):
    return [what for what, _ in disagreements(cfg, loaders)]


def test_our_configs_agree():
    paths = [p for p in sorted(CONFIGS.rglob('*.py')) if '_base_' not in p.parts]
    assert len(paths) > 10
    for path in paths:
        cfg = Config.fromfile(path)
        innermost = cfg.model.backbone
        while 'host' in innermost:
            innermost = innermost.host
        # packages that the config does not need otherwise may not be there
        foreign = innermost.type.split('.')[0] not in ('mmssm', cfg.default_scope)
        optional = cfg.default_scope == 'mmpretrain'
        assert in_channels(cfg) in ((3, None) if foreign or optional else (3,)), path
        check_agreement(cfg, ('train', 'val', 'test'))


def test_bands_against_means():
    cfg = config(preprocessor=dict(RGB, bgr_to_rgb=True))
    assert said(cfg) == []
    cfg.model.backbone.in_channels = 4
    with pytest.raises(
        UserError, match=r'takes 4 .*mean has 3 .*in_channels=3; .*bgr_to_rgb=False'
    ):
        check_agreement(cfg, ())
    cfg.model.data_preprocessor = ONE
    assert said(cfg) == []
    cfg.model.data_preprocessor = dict(mean=[1.0], std=[1.0, 1.0])
    assert said(cfg) == ['model.data_preprocessor has 1 numbers in mean and 2 in std']


def test_channels_of_hosts_and_of_unknown_backbones():
    host = dict(type='mmseg.SwinTransformer', in_channels=5)
    cfg = config()
    cfg.model.backbone = dict(type='mmssm.SSM2DHost', host=host)
    assert in_channels(cfg) == 5
    del cfg.model.backbone.host['in_channels']
    assert in_channels(cfg) == 3  # the default
    cfg.model.backbone = dict(type='Nowhere')
    assert in_channels(cfg) is None
    cfg.model.backbone = dict(type='mmssm.VMINet', in_channels='3')
    assert in_channels(cfg) is None


@pytest.mark.parametrize(
    'loss, wrong',
    [
        (None, True),
        (dict(type='CrossEntropyLoss'), True),
        (dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True), False),
        (dict(type='DiceLoss'), False),
        ([dict(type='DiceLoss'), dict(type='CrossEntropyLoss')], True),
    ],
)
def test_one_class_with_softmax(loss, wrong):
    head = dict(num_classes=1) | (dict(loss_decode=loss) if loss else {})
    assert ['softmax' in what for what in said(config(head))] == [True] * wrong


def test_labels_of_padding():
    padded = dict(RGB, size=(64, 64))
    assert said(config(preprocessor=padded)) == []
    cfg = config(dict(ignore_index=11, num_classes=11), padded)
    (what,) = said(cfg, ())
    assert 'model.decode_head.ignore_index is 11, but padding has the label 255' in what
    cfg.model.data_preprocessor.seg_pad_val = 11
    assert said(cfg, ()) == []
    cfg.model.data_preprocessor.seg_pad_val = 0  # padding counts as ground
    assert said(cfg, ()) == []
    del cfg.model.data_preprocessor['size']  # and nothing is padded
    cfg.model.data_preprocessor.seg_pad_val = 255
    assert said(cfg, ()) == []
    assert ignored_label(cfg) == 11


def test_every_head_is_compared():
    padded = dict(RGB, size_divisor=32)
    cfg = config(preprocessor=padded)
    cfg.model.auxiliary_head = [
        dict(num_classes=2),
        dict(num_classes=2, ignore_index=9),
    ]
    (what,) = said(cfg)
    assert what.startswith('model.auxiliary_head[1].ignore_index is 9')


def test_labels_that_the_metric_ignores():
    metric = dict(type='IoUMetric')
    cfg = config(dict(ignore_index=11), val_evaluator=metric, val_cfg={})
    (what,) = said(cfg)
    assert 'val_evaluator ignores the label 255, but model.decode_head the' in what
    assert said(cfg, ['train']) == []
    cfg.val_evaluator = [dict(type='IoUMetric', ignore_index=11)]
    assert said(cfg) == []


def test_detectors_have_no_such_labels():
    cfg = Config(dict(model=dict(bbox_head=dict(num_classes=1))))
    assert said(cfg) == []
    assert ignored_label(cfg) is None
