"""Parameters without a gradient are named before the first step."""

import itertools

import pytest
import torch
from mmengine.optim import OptimWrapper
from openmmlab.engine import tiny
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import UserError
from mmssm.openmmlab.engine.gradients import GradientCheckHook, unreached

NUMBERS = itertools.count()


def test_unreached_parameters():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)])
    model[2].requires_grad_(False)
    x = torch.randn(3, 2)
    assert unreached(model, model[0](x).sum()) == ['1.weight', '1.bias']
    assert unreached(model, model[1](model[0](x)).sum()) == []
    kept = checkpoint(model[0], x.requires_grad_(), use_reentrant=False)
    assert unreached(model, kept.sum()) == ['1.weight', '1.bias']
    hidden = checkpoint(model[0], x, use_reentrant=True)
    assert unreached(model, hidden.sum()) == []


class Parallel(torch.nn.parallel.DistributedDataParallel):
    """Data parallelism without processes."""

    def __init__(self, module, find=False):
        nn.Module.__init__(self)
        self.module, self.find_unused_parameters, self.static_graph = (
            module,
            find,
            False,
        )


class Run:
    """As much of a runner as the hook reads."""

    def __init__(self, model):
        self.model = model
        self.warnings = []
        parameters = list(model.parameters())
        self.optim_wrapper = OptimWrapper(torch.optim.SGD(parameters, lr=0.1))
        self.logger = self

    def warning(self, text):
        self.warnings.append(text)


def steps(run, loss, count=2):
    hook = GradientCheckHook()
    for batch in range(count):
        hook.before_train_iter(run, batch)
        run.optim_wrapper.update_params(loss())


def test_parallel_training_stops_before_the_first_step():
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    before = module[0].weight.clone()
    run = Run(Parallel(module))
    with pytest.raises(
        UserError, match=r'1\.weight, 1\.bias.*out_indices.*find_unused'
    ):
        steps(run, lambda: module[0](torch.ones(1, 2)).sum())
    assert torch.equal(module[0].weight, before)


def test_parallel_training_that_looks_for_them_goes_on():
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    run = Run(Parallel(module, find=True))
    steps(run, lambda: module[0](torch.ones(1, 2)).sum())
    assert run.warnings == []


def test_one_process_is_warned_once_and_trains():
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    before = module[0].weight.clone()
    run = Run(module)
    steps(run, lambda: module[0](torch.ones(1, 2)).sum())
    assert len(run.warnings) == 1
    assert not torch.equal(module[0].weight, before)
    assert 'backward' not in vars(run.optim_wrapper)


def test_a_neck_from_level_one_names_the_norm(tmp_path, capsys):
    tiny.write_data(tmp_path / 'data')
    config = str(tiny.write_config(tmp_path, 'detection'))
    changes = ['model.neck.start_level=1', 'model.neck.add_extra_convs=on_input']
    name = f'experiment_name=gradients{next(NUMBERS)}'
    run = ['--work-dir', str(tmp_path / 'run'), '--cfg-options', name]
    cli.train([config, *run, *changes, 'train_dataloader.batch_size=4'])
    text = capsys.readouterr().out
    assert 'does not depend on backbone.out_norms.0.weight' in text
