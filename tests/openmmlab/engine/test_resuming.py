"""A run that is killed and resumed is the run that was not."""

import itertools
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from openmmlab.engine import toy
from torch.utils.data import BatchSampler, SequentialSampler

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import UserError
from mmssm.openmmlab.engine.randomness import (
    NumberedBatches,
    ResumableRandomnessHook,
    load_seeded,
)

NUMBERS = itertools.count()


def train(config, work_dir, *flags, **options):
    """In this process, under a name of its own: mmengine shares logs by name."""
    options['experiment_name'] = f'toy{next(NUMBERS)}'
    changes = [f'{key}={value}' for key, value in options.items()]
    cli.train(
        [str(config), '--work-dir', str(work_dir), *flags, '--cfg-options', *changes]
    )


def train_and_die(config, work_dir, how):
    """In a process that kills itself; `how` is an option of DieHook."""
    tool = [sys.executable, str(toy.ROOT / 'tools/train.py'), str(config)]
    options = ['--work-dir', str(work_dir), '--cfg-options', f'custom_hooks.0.{how}']
    log = work_dir.with_suffix('.log')
    with log.open('wb') as output:  # a pipe would wait for the orphaned workers
        streams = dict(stdout=output, stderr=output)
        done = subprocess.run([*tool, *options], env=toy.environment(), **streams)
    assert done.returncode == -signal.SIGKILL, log.read_text()


def weights(work_dir, name):
    return torch.load(work_dir / name, weights_only=False)['state_dict']


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    ('loop', 'last'), [('iterations', 'iter_18.pth'), ('epochs', 'epoch_3.pth')]
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, loop, last, workers):
    config = toy.write_config(tmp_path, loop, workers)
    train(config, tmp_path / 'whole')
    train_and_die(config, tmp_path / 'cut', 'after=8')
    assert list(toy.curve(tmp_path / 'cut')) == [*range(1, 9)]
    train(config, tmp_path / 'cut', '--resume')
    whole = toy.curve(tmp_path / 'whole')
    assert len(set(whole.values())) == 18
    assert toy.curve(tmp_path / 'cut') == whole
    ours, theirs = weights(tmp_path / 'cut', last), weights(tmp_path / 'whole', last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_resumes_with_the_seed_that_was_drawn(tmp_path):
    config = toy.write_config(tmp_path)
    config.write_text(config.read_text().replace('randomness', 'unused'))
    first, last = tmp_path / 'first', tmp_path / 'last'
    train(config, first, **{'train_cfg.max_iters': 12})
    train(config, last, '--resume', str(first / 'iter_12.pth'))
    train(config, tmp_path / 'other')
    begun, ended, other = map(toy.curve, (first, last, tmp_path / 'other'))
    assert list(ended) == [*range(13, 19)]
    assert begun[1] != other[1]
    seed = torch.load(first / 'iter_12.pth', weights_only=False)['meta']['seed']
    train(config, tmp_path / 'whole', **{'randomness.seed': seed})
    assert begun | ended == toy.curve(tmp_path / 'whole')


def test_killed_while_saving_keeps_the_checkpoint_before(tmp_path):
    config = toy.write_config(tmp_path)
    work_dir = tmp_path / 'cut'
    train_and_die(config, work_dir, 'in_save=12')
    assert [path.name for path in work_dir.glob('iter_*.pth')] == ['iter_6.pth']
    assert len(list(work_dir.glob('.*.tmp'))) == 1
    train(config, work_dir, '--resume')
    train(config, tmp_path / 'whole')
    assert toy.curve(work_dir) == toy.curve(tmp_path / 'whole')
    assert not list(work_dir.glob('.*.tmp'))


@pytest.mark.parametrize('start', [0, 1, 4, 7])
def test_endless_batches_start_at_the_iteration(start):
    class Loop:
        iter = 0

    class Shuffled(list):
        def set_epoch(self, epoch):
            self[:] = [(5 * index + epoch) % 7 for index in range(7)]

    def numbered(first):
        loop, batches = Loop(), BatchSampler(Shuffled(range(7)), 3, drop_last=False)
        loop.iter = first
        return itertools.islice(NumberedBatches(batches, loop, endless=True), 9)

    assert list(numbered(start))[:2] == list(numbered(0))[start : start + 2]


def test_every_sample_has_a_seed_of_its_own():
    class Noise:
        def __getitem__(self, index):
            return torch.rand(()).item()

    def draw(seed=1, rank=0, iteration=5):
        return load_seeded(Noise(), seed, rank, (iteration, [3, 3]))

    drawn = [*draw(), *draw(seed=2), *draw(rank=1), *draw(iteration=6)]
    assert len({*drawn}) == 8
    assert draw() == draw()


@pytest.mark.parametrize('endless', [True, False])
def test_no_batch_at_all_is_said(endless):
    class Loop:
        iter = 0

    batches = BatchSampler(SequentialSampler(range(3)), 4, drop_last=True)
    with pytest.raises(UserError, match=r'no batch: 3 samples .*, batches of 4'):
        next(iter(NumberedBatches(batches, Loop(), endless)))


@pytest.mark.parametrize('seed', ['None', '5'])
def test_weights_alone_are_no_run(tmp_path, seed):
    config = toy.write_config(tmp_path)
    torch.save(dict(state_dict={'w': torch.ones(1)}), tmp_path / 'weights.pth')
    words = r'weights\.pth has no meta and no optimizer.*load_from=.*without --resume'
    with pytest.raises(SystemExit, match=words):
        train(
            config,
            tmp_path / 'run',
            '--resume',
            str(tmp_path / 'weights.pth'),
            **{'randomness.seed': seed},
        )


def test_an_address_is_not_resumed(tmp_path):
    config = toy.write_config(tmp_path)
    with pytest.raises(SystemExit, match='download it first'):
        train(config, tmp_path / 'run', '--resume', 'https://host/iter_6.pth')


def test_every_iteration_draws_its_own_numbers():
    hook, drawn = ResumableRandomnessHook(), []
    for seed, rank, iteration in (
        (0, 0, 1),
        (0, 0, 2),
        (0, 1, 1),
        (1, 0, 1),
        (0, 0, 1),
    ):
        runner = SimpleNamespace(seed=seed, rank=rank, iter=iteration)
        hook.before_train_iter(runner, 0)
        drawn.append(torch.rand(()).item())
    assert len(set(drawn[:4])) == 4
    assert drawn[4] == drawn[0]
