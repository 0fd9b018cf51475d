"""One batch through pipeline, preprocessor and loss: what stops is told in one line."""

import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from openmmlab import bad_data
from openmmlab.engine import tiny
from PIL import Image

from mmssm.openmmlab.data_checks import batch
from mmssm.openmmlab.data_checks.batch_contents import check_losses
from mmssm.openmmlab.data_checks.report import Report


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    tiny.write_data(folder / 'data')
    for task in ('detection', 'segmentation'):
        tiny.write_config(folder, task)
    return folder


def config(folder, task, **options):
    cfg = Config.fromfile(folder / f'{task}.py')
    cfg.train_dataloader.batch_size = 2
    cfg.merge_from_dict({k.replace('__', '.'): v for k, v in options.items()})
    return cfg


def findings(cfg):
    report = Report(silent=True)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        batch.check_batch(report, cfg)
    return report.findings


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_sound_configs_have_nothing(folder, task):
    cfg = config(folder, task, model__backbone__in_channels=3)
    before = cfg.pretty_text
    assert findings(cfg) == []
    assert cfg.pretty_text == before


@pytest.mark.parametrize(
    'task, options, what, fix',
    [
        (
            'segmentation',
            dict(model__decode_head__in_channels=[4, 8, 16, 64]),
            'the loss fails with',
            'what the backbone gives',
        ),
        (
            'detection',
            dict(model__neck__in_channels=[4, 8, 16, 64]),
            'the loss fails with',
            'what the backbone gives',
        ),
        (
            'detection',
            dict(model__bbox_head__num_classes=1),
            'the batch has the label 1, but the heads have 1 classes',
            'num_classes=2',
        ),
        (
            'detection',
            dict(model__bbox_head__anchor_generator__type='NoGenerator'),
            'building the model fails',
            'look at model',
        ),
        (
            'segmentation',
            dict(model__data_preprocessor__size_divisor=32),
            'model.data_preprocessor fails',
            'not both',
        ),
        (
            'detection',
            dict(train_dataloader__dataset__pipeline=[dict(type='LoadImageFromFile')]),
            'the pipeline gives no inputs',
            'PackDetInputs',
        ),
        (
            'detection',
            dict(
                train_dataloader__batch_size=9,
                train_dataloader__batch_sampler=None,
                train_dataloader__drop_last=True,
            ),
            '4 pictures give no batch of 9',
            'batch_size=1',
        ),
        (
            'detection',
            dict(model__backbone__in_channels=4),
            'pictures of 3 channels, but model.backbone takes 4',
            "color_type='unchanged'",
        ),
    ],
)
def test_what_stops_is_told(folder, task, options, what, fix):
    cfg = config(folder, task, **options)
    (finding,) = findings(cfg)
    assert finding.kind == 'ERROR'
    assert what in finding.what
    assert '\n' not in finding.what
    assert fix in finding.fix


def relabel(folder, tmp_path, change):
    """A copy of the data with other label maps."""
    shutil.copytree(folder / 'data', tmp_path / 'data')
    for path in (tmp_path / 'data/maps').iterdir():
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
    return dict(train_dataloader__dataset__data_root=str(tmp_path / 'data'))


def test_labels_that_are_no_class_and_not_ignored(folder, tmp_path):
    options = relabel(folder, tmp_path, lambda m: np.where(m == 1, 1, 255).astype('u1'))
    cfg = config(folder, 'segmentation', **options)
    assert findings(cfg) == []
    cfg.model.decode_head.ignore_index = 7
    (finding,) = findings(cfg)
    assert 'has labels [255]' in finding.what
    assert 'decode_head has 2 classes and ignores 7' in finding.what


def test_labels_that_padding_brings(folder):
    options = dict(
        model__data_preprocessor__size=(96, 96), model__decode_head__ignore_index=7
    )
    (finding,) = findings(config(folder, 'segmentation', **options))
    assert '(255 is what padding has)' in finding.what


def test_batches_in_which_everything_is_ignored(folder, tmp_path):
    options = relabel(folder, tmp_path, lambda m: np.full_like(m, 255))
    kinds = [f.kind for f in findings(config(folder, 'segmentation', **options))]
    assert kinds[0] == 'warning'


@pytest.mark.parametrize(
    'preprocessor, words',
    [
        (dict(size=None), 'neither size nor size_divisor'),
        (dict(size=(64, 64)), 'some exceed data_preprocessor.size (64, 64)'),
        (dict(size=(160, 160)), None),
        (dict(size=None, size_divisor=32), None),
    ],
)
def test_pictures_of_different_sizes(folder, tmp_path, preprocessor, words):
    shutil.copytree(folder / 'data', tmp_path / 'data')
    for kind in ('images', 'maps'):
        path = tmp_path / f'data/{kind}/2.png'
        Image.open(path).resize((100, 64), Image.Resampling.NEAREST).save(path)
    root = dict(train_dataloader__dataset__data_root=str(tmp_path / 'data'))
    cfg = config(folder, 'segmentation', **root)
    cfg.model.data_preprocessor.update(preprocessor)
    found = findings(cfg)
    assert [words in f.what for f in found] == ([True] if words else [])


def test_four_bands(folder, tmp_path):
    shutil.copytree(folder / 'data', tmp_path / 'data')
    for path in (tmp_path / 'data/images').iterdir():
        Image.open(path).convert('RGBA').save(path)
    cfg = config(folder, 'segmentation')
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = str(tmp_path / 'data')
    assert findings(cfg) == []  # the loader makes three of four
    dataset.pipeline[0].color_type = 'unchanged'
    (finding,) = findings(cfg)
    assert 'gives pictures of 4 channels, but model.backbone takes 3' in finding.what
    assert 'in_channels=4, to which pretrained weights are adapted' in finding.fix
    cfg.model.backbone.in_channels = 4
    (finding,) = findings(cfg)
    assert 'mean has 3 numbers' in finding.what
    cfg.model.data_preprocessor.update(mean=[127.0], std=[60.0])
    assert findings(cfg) == []


def test_pretrained_weights_are_forgotten():
    start = dict(type='Pretrained', checkpoint='https://nowhere/file.pth')
    other = dict(type='Normal', std=0.1)
    model = ConfigDict(
        backbone=dict(init_cfg=start),
        heads=[dict(init_cfg=start), dict(init_cfg=other)],
    )
    batch.forget_pretrained(model)
    assert model.backbone.init_cfg is None
    assert model.heads == [dict(init_cfg=None), dict(init_cfg=other)]


def test_losses_that_are_not_finite():
    report = Report(silent=True)
    samples = [type('Sample', (), dict(img_path=f'{i}.jpg'))() for i in range(2)]
    losses = dict(
        loss_cls=torch.tensor(1.0),
        loss_bbox=[torch.tensor(1.0), torch.tensor(float('nan'))],
    )
    check_losses(report, losses, dict(data_samples=samples))
    (finding,) = report.findings
    assert 'not finite: loss_bbox, for 0.jpg, 1.jpg' in finding.what
    zero = dict(loss_ce=torch.tensor(0.0), acc=torch.tensor(50.0))
    check_losses(report, zero, {})
    assert 'every loss is 0' in report.findings[1].what


def test_boxes_without_area_are_found_by_the_loss_too(folder, tmp_path):
    data = bad_data.Voc(tmp_path)
    for name in bad_data.NAMES:
        path = tmp_path / 'Annotations' / f'{name}.xml'
        data.write(path, x2=bad_data.BOX[0])
    cfg = config(folder, 'detection')
    own = data.config()['train_dataloader']['dataset']
    cfg.train_dataloader.dataset = ConfigDict(own)
    (finding,) = findings(cfg)
    assert 'not finite: loss_bbox' in finding.what
    assert str(data.pictures) in finding.what
