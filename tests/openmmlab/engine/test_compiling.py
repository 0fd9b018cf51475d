"""A part of a model compiled while it trains."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from openmmlab.engine import tiny
from torch import nn

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import CompileHook, UserError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 2)
        self.head = nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


@pytest.fixture
def compiled(monkeypatch):
    """The sizes that the compiled form was called with."""
    sizes = []
    real = torch.compile

    def watched(run, **options):
        assert options['backend'] == 'eager'
        inner = real(run, **options)

        def call(x):
            sizes.append(tuple(x.shape))
            return inner(x)

        return call

    monkeypatch.setattr(torch, 'compile', watched)
    return sizes


def runner_of(model):
    return SimpleNamespace(model=model, logger=logging.getLogger('test'))


def test_in_training_alone_and_only_as_long_as_it_lasts(compiled):
    model, x = Model(), torch.randn(4, 3)
    expected, keys = model(x), list(model.state_dict())
    hook, runner = CompileHook(backend='eager'), runner_of(model)
    hook.before_train(runner)
    torch.testing.assert_close(model(x), expected)
    assert compiled == [(4, 3)]
    model.eval()
    assert torch.equal(model(x), expected)
    assert compiled == [(4, 3)]
    assert list(model.state_dict()) == keys
    model.train()
    hook.after_train(runner)
    assert torch.equal(model(x), expected)
    assert compiled == [(4, 3)]
    assert 'forward' not in vars(model.backbone)


def test_behind_the_wrapper_of_data_parallelism(compiled):
    class Parallel(nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

    model = Model()
    CompileHook(backend='eager').before_train(runner_of(Parallel(model)))
    model(torch.randn(2, 3))
    assert compiled == [(2, 3)]


def test_what_is_refused():
    with pytest.raises(UserError, match=r"'fast'.*'reduce-overhead'"):
        CompileHook(mode='fast')
    hook = CompileHook(module='neck', backend='eager')
    with pytest.raises(UserError, match=r"no part 'neck'.*backbone, head"):
        hook.before_train(runner_of(Model()))


def losses(tmp_path, name, more=''):
    config = tiny.write_config(tmp_path, 'segmentation')
    config.write_text(config.read_text() + more)
    folder = tmp_path / name
    options = ['--cfg-options', f'experiment_name=compile_{name}']
    cli.train([str(config), '--work-dir', str(folder), *options])
    (file,) = folder.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row['loss'] for row in rows if 'loss' in row]


def test_a_training_has_the_same_losses(tmp_path):
    tiny.write_data(tmp_path / 'data')
    hook = "custom_hooks = [dict(type='mmssm.CompileHook', backend='eager')]\n"
    found = losses(tmp_path, 'compiled', hook)
    assert len(found) == 4
    assert found == pytest.approx(losses(tmp_path, 'plain'), rel=1e-4)
