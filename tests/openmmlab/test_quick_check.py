"""Training looks at its data before it starts, and refuses what cannot go well."""

import itertools
import json
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from openmmlab.engine import tiny
from PIL import Image

from mmssm.openmmlab import cli
from mmssm.openmmlab.data_checks import quick
from mmssm.openmmlab.errors import UserError

NUMBERS = itertools.count()


@pytest.fixture
def folder(tmp_path):
    tiny.write_data(tmp_path / 'data')
    return tmp_path


WARM_UP = """
param_scheduler = dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=1000)
"""


def train(folder, task, *options, more='', **changes):
    config = tiny.write_config(folder, task)
    config.write_text(config.read_text() + more)
    changes = [f'{key.replace("__", ".")}={value}' for key, value in changes.items()]
    number = next(NUMBERS)
    own = ['--cfg-options', f'experiment_name=quick{number}', *changes]
    cli.train([str(config), '--work-dir', str(folder / 'work'), *options, *own])


def binary(folder):
    for path in (folder / 'data/maps').iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)


def test_errors_stop_and_skipping_goes_on(folder, capsys):
    binary(folder)
    with pytest.raises(SystemExit) as stop:
        train(folder, 'segmentation')
    text = str(stop.value)
    assert 'the data has 2 errors' in text
    assert 'train_dataloader.dataset (BaseSegDataset)' in text
    assert 'val_dataloader.dataset (BaseSegDataset)' in text
    assert 'Fix: write 1 in the place of 255' in text
    assert '--skip-checks' in text
    assert not (folder / 'work').exists()
    train(folder, 'segmentation', '--skip-checks', train_cfg__max_iters=1)
    assert list((folder / 'work').glob('*/vis_data/scalars.json'))


def test_warnings_and_the_schedule_are_logged(folder, capsys):
    train(folder, 'detection', more=WARM_UP)
    log = capsys.readouterr().out
    assert 'data: train_dataloader.dataset (CocoDataset): categories without' in log
    assert 'schedule: 4 iterations (1 passes over the data); warm-up 1000' in log
    assert 'WARNING - the warm-up of 1000 iterations is longer than the run' in log


def test_fitting_by_the_command(folder, capsys):
    train(folder, 'detection', '--fit-schedule', more=WARM_UP)
    log = capsys.readouterr().out
    assert 'warm-up 1 (25 % of the run)' in log
    assert 'longer than the run' not in log


@pytest.mark.parametrize('options', [[], ['--skip-checks']])
@pytest.mark.parametrize(
    'task, changes, words',
    [
        (
            'segmentation',
            dict(train_dataloader__dataset__img_suffix='.PNG'),
            ["no file that ends in '.PNG'; it has 4 *.png", "img_suffix='.png'"],
        ),
        (
            'detection',
            dict(
                train_dataloader__dataset__filter_cfg__filter_empty_gt=True,
                train_dataloader__dataset__metainfo__classes='("ground","ground2")',
            ),
            ["class 'ground2' of the config is not a category"],
        ),
    ],
)
def test_nothing_to_train_on(folder, options, task, changes, words):
    with pytest.raises(SystemExit) as stop:
        train(folder, task, *options, **changes)
    for word in words:
        assert word in str(stop.value)


def test_a_filter_that_leaves_nothing(folder):
    path = folder / 'data/boxes.json'
    content = json.loads(path.read_text())
    for image in content['images']:
        image.update(width=64, height=64)
    content['annotations'] = [dict(content['annotations'][0], category_id=1)]
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        train(
            folder,
            'detection',
            train_dataloader__dataset__filter_cfg__min_size=500,
        )
    assert 'leaves none of 4 pictures' in str(stop.value)


def test_evaluation_of_nothing(folder):
    config = tiny.write_config(folder, 'segmentation')
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.img_suffix = '.PNG'

    def end(text):
        with quick.explaining_empty(cfg, ('test',)):
            raise ValueError(text)

    with pytest.raises(UserError, match=r'it has 4 \*\.png'):
        end(quick.EMPTY)
    with pytest.raises(ValueError, match='another'):
        end('another')


def test_large_annotation_files_are_left_to_the_command(folder, monkeypatch):
    cfg = Config.fromfile(tiny.write_config(folder, 'detection'))
    (folder / 'data/boxes.json').write_text('damaged')
    with pytest.raises(UserError, match='not readable as JSON'):
        quick.check_before_training(cfg, ('train',))
    monkeypatch.setattr(quick, 'QUICK', quick.QUICK._replace(largest=5))
    assert quick.check_before_training(cfg, ('train',)) == []


def test_a_check_that_fails_keeps_nobody_from_training(folder, monkeypatch):
    def fail(*args):
        raise RuntimeError('odd')

    monkeypatch.setattr(quick, 'check', fail)
    cfg = Config.fromfile(tiny.write_config(folder, 'detection'))
    notes = quick.check_before_training(cfg, ('train',))
    assert notes == ['the data was not checked: RuntimeError: odd']


def test_long_lists_are_cut(folder):
    cfg = Config.fromfile(tiny.write_config(folder, 'segmentation'))
    cfg.default_scope = 'mmseg'
    binary(folder)
    dataset = cfg.train_dataloader.dataset
    parts = []
    for i in range(12):
        shutil.copytree(folder / 'data', folder / f'data{i}')
        parts.append(dict(dataset, data_root=str(folder / f'data{i}')))
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    with pytest.raises(UserError, match=r'has 12 errors(?s:.*)… 2 more'):
        quick.check_before_training(cfg, ('train',))


def evaluate(folder, task, **changes):
    changes = [f'{key.replace("__", ".")}={value}' for key, value in changes.items()]
    config = str(tiny.write_config(folder, task))
    cli.test([config, 'absent.pth', '--cfg-options', *changes])


@pytest.mark.parametrize('tool', [train, evaluate])
@pytest.mark.parametrize(
    'changes, words',
    [
        (dict(model__decode_head__num_classes=1), 'num_classes is 1, but'),
        (dict(model__backbone__in_channels=4), 'takes 4 channels (in_channels)'),
    ],
)
def test_the_config_alone_is_checked_by_both_tools(folder, tool, changes, words):
    with pytest.raises(SystemExit) as stop:
        tool(folder, 'segmentation', **changes)
    assert words in str(stop.value)
