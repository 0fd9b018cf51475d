"""What only building or running finds is one line; the traceback stands in the log."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from openmmlab.engine import tiny
from wrong_configs import unclear

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import UserError, configs, explaining

NUMBERS = itertools.count()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data and both configs."""
    folder = tmp_path_factory.mktemp('tiny')
    tiny.write_data(folder / 'data')
    for task in ('detection', 'segmentation'):
        tiny.write_config(folder, task)
    return folder


@pytest.fixture
def train(folder, tmp_path):
    """Train with changes; returns what the user is told."""

    def run(task, *changes):
        name = f'experiment_name=explained{next(NUMBERS)}'
        config, options = str(folder / f'{task}.py'), ['--cfg-options', name, *changes]
        with pytest.raises(SystemExit) as error:
            cli.train([config, '--work-dir', str(tmp_path), *options])
        return str(error.value.code)

    return run


@pytest.mark.parametrize(
    ('task', 'change', 'words'),
    [
        ('detection', 'model.neck.type=FPNN', r"neck.type is 'FPNN'; .*mean FPN\?"),
        ('detection', 'model.backbone.type=SpatialMamba', 'mmssm.SpatialMamba'),
        ('detection', 'model.neck.num_outs=x', "model.neck .*num_outs='x' .*int"),
        ('detection', 'optim_wrapper.optimizer.lr=fast', "optimizer .*lr='fast'"),
        ('detection', 'val_evaluator.metric=x', 'val_evaluator .*CocoMetric'),
        ('detection', 'default_hooks.logger.interval=x', 'default_hooks.logger'),
        ('segmentation', 'model.decode_head.in_channels=[4,8,16,3]', 'decode_head'),
        (
            'segmentation',
            'train_dataloader.dataset.pipeline.0.type=No',
            'no such trans',
        ),
    ],
)
def test_one_line_with_the_place_and_the_value(train, task, change, words):
    message = train(task, change)
    assert len(message.splitlines()) == 1
    assert re.search(words, message)
    file = re.search(r'The traceback is in (\S+)\)', message)[1]
    assert 'Traceback (most recent call last)' in Path(file).read_text()


def test_missing_logger_package(train):
    message = train('detection', 'visualizer.vis_backends.0.type=MLflowVisBackend')
    assert 'mlflow' in message
    assert 'visualizer' in message


def test_wrong_configs_are_explained():
    lines, counts = unclear(10, seed=5)
    assert lines == []
    assert counts['clear'] > 4


def test_the_users_own_mistakes_and_missing_packages_pass():
    for error in (UserError('plain'), ModuleNotFoundError('x'), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, explaining.explained(Config({})):
            raise error
        assert raised.value is error


def test_a_process_beside_the_first_says_so(monkeypatch, capsys):
    monkeypatch.setenv('LOCAL_RANK', '3')
    with pytest.raises(UserError), explaining.explained(Config({})):
        raise RuntimeError('of one process')
    assert 'process 3 of this machine: ' in capsys.readouterr().err


def test_indices_of_parallel_training_get_their_names(monkeypatch):
    class Parallel(torch.nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            torch.nn.Module.__init__(self)
            self.module = module

        def forward(self):
            raise RuntimeError('... did not receive grad for rank 0: 0 1\n In addition')

    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    module[0].bias.requires_grad_(False)
    words = r'not depend on 0\.weight, 1\.weight: .*out_indices'
    with pytest.raises(UserError, match=words), explaining.explained(Config({})):
        Parallel(module)()


def test_a_dict_over_a_name_says_what_works(tmp_path):
    (tmp_path / 'base.py').write_text("model = dict(backbone=dict(arch='tiny'))")
    child = tmp_path / 'child.py'
    text = "_base_ = './base.py'\nmodel = dict(backbone=dict(arch=dict({}channels=8)))"
    child.write_text(text.format(''))
    with pytest.raises(
        UserError, match='model.backbone.arch is .*_delete_=True'
    ) as error:
        configs.read_config(str(child))
    assert "'tiny' in its base" in str(error.value)
    child.write_text(text.format('_delete_=True, '))
    assert configs.read_config(str(child)).model.backbone.arch == dict(channels=8)


def test_a_config_that_raises_is_named(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text('a = b')
    with pytest.raises(UserError, match='a.py cannot be read: NameError'):
        configs.read_config(str(path))
