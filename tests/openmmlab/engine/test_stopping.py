"""SIGTERM and SIGUSR1 save the run, and --resume goes on as if nothing had been."""

import itertools
import multiprocessing
import os
import re
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from openmmlab.engine import toy
from openmmlab.engine.test_distributed import run, start

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine.stopping import StopHook, resume_command

NUMBERS = itertools.count()
HOOK = "dict(type='SignalHook', after={}, number={}, rank={})"


def write_config(folder, loop, workers=0, after=-1, number=15, rank=0):
    config = toy.write_config(folder, loop, workers)
    hook = HOOK.format(after, number, rank)
    text = config.read_text().replace("dict(type='DieHook')", hook)
    config.write_text(text)
    return config


def train(config, work_dir, *flags):
    """In this process; the status of the command and what it says in the end."""
    name = f'experiment_name=stop{next(NUMBERS)}'
    try:
        cli.train(
            [str(config), '--work-dir', str(work_dir), *flags, '--cfg-options', name]
        )
    except SystemExit as error:
        return error.code
    return 0


def weights(work_dir, name):
    return torch.load(work_dir / name, weights_only=False)['state_dict']


def test_a_run_without_validation(tmp_path):
    config = toy.write_config(tmp_path, 'iterations')
    none = [f'val_{part}=None' for part in ('dataloader', 'cfg', 'evaluator')]
    work_dir = tmp_path / 'run'
    name = f'experiment_name=stop{next(NUMBERS)}'
    arguments = [str(config), '--work-dir', str(work_dir), '--cfg-options', name]
    cli.train([*arguments, *none])
    assert list(work_dir.glob('iter_*.pth'))


@pytest.mark.parametrize(
    ('loop', 'workers', 'number', 'last'),
    [
        ('iterations', 0, signal.SIGUSR1, 'iter_18.pth'),
        ('epochs', 2, signal.SIGTERM, 'epoch_3.pth'),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(
    tmp_path, loop, workers, number, last, capsys
):
    config = write_config(tmp_path, loop, workers, after=8, number=int(number))
    cut = tmp_path / 'cut'
    before = signal.getsignal(number)
    assert train(config, cut) == 128 + number
    assert signal.getsignal(number) is before
    line = capsys.readouterr().err.splitlines()[-1]
    saved = cut / 'stopped_iter_8.pth'
    assert f'{number.name} after iteration 8 of 18: the run is saved in {saved}' in line
    assert f'Go on with: mmssm-train {config} --work-dir {cut} --resume' in line
    config = write_config(tmp_path, loop, workers)
    assert train(config, cut, '--resume') == 0
    assert train(config, tmp_path / 'whole') == 0
    whole = toy.curve(tmp_path / 'whole')
    assert list(whole) == [*range(1, 19)]
    assert toy.curve(cut) == whole
    ours, theirs = weights(cut, last), weights(tmp_path / 'whole', last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_last_stop_takes_the_place_of_the_one_before(tmp_path):
    for after in (2, 4):
        config = write_config(tmp_path, 'iterations', after=after)
        assert train(config, tmp_path / 'run', '--resume') == 128 + 15
    names = {path.name for path in (tmp_path / 'run').glob('*.pth')}
    assert names == {'stopped_iter_4.pth'}
    note = (tmp_path / 'run/last_checkpoint').read_text()
    assert note.endswith('stopped_iter_4.pth')


def test_a_signal_to_one_process_of_two_stops_both(tmp_path):
    config = write_config(tmp_path, 'epochs', after=2, number=15, rank=1)
    process = start('dist_train.sh', config, 2, '--work-dir', tmp_path / 'run')
    text, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert 'SIGTERM after iteration 2 of 9' in text
    assert f'tools/dist_train.sh {config} 2 --work-dir {tmp_path}/run --resume' in text
    assert (tmp_path / 'run/stopped_iter_2.pth').is_file()
    config = write_config(tmp_path, 'epochs')
    run('dist_train.sh', config, 2, '--work-dir', tmp_path / 'run', '--resume')
    assert list(toy.curve(tmp_path / 'run')) == [*range(1, 10)]


def test_a_signal_to_the_launcher_stops_all(tmp_path):
    config = write_config(tmp_path, 'epochs', workers=1, after=-2)
    process = start('dist_train.sh', config, 2, '--work-dir', tmp_path / 'run')
    mark = tmp_path / 'run/begun'
    for _ in range(600):
        if mark.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)  # handed on as SIGTERM
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, text
    assert re.search(r'SIGTERM after iteration \d of 9: the run is saved', text), text
    assert len(list((tmp_path / 'run').glob('stopped_iter_*.pth'))) == 1
    assert 'Traceback' not in text


def test_resume_command():
    class Cfg(dict):
        filename, work_dir, launcher = 'c.py', 'a dir', 'none'

    words = [
        'c.py',
        '--launcher',
        'x',
        '--work-dir=w',
        '--resume',
        'f',
        '--amp',
        'bf16',
    ]
    expected = "mmssm-train c.py --work-dir 'a dir' --resume --amp bf16"
    assert resume_command(Cfg(), words, {}) == expected
    cfg = Cfg()
    cfg.launcher = 'slurm'
    job = dict(SLURM_JOB_PARTITION='p', SLURM_JOB_NAME='n')
    command = resume_command(cfg, ['c.py', '--resume', '--amp'], job)
    assert command == "tools/slurm_train.sh p n c.py 'a dir' --resume --amp"
    cfg.launcher = 'pytorch'
    command = resume_command(cfg, ['c.py'], dict(LOCAL_WORLD_SIZE='2'))
    assert command == "tools/dist_train.sh c.py 2 --work-dir 'a dir' --resume"


def test_processes_that_a_metric_forks_can_be_ended():
    hook = StopHook()
    hook.before_train(SimpleNamespace(train_loop=None, val_loop=None))
    try:
        worker = multiprocessing.get_context('fork').Process(
            target=time.sleep, args=(60,)
        )
        worker.start()
        os.kill(worker.pid, signal.SIGUSR1)  # of a scheduler, to every process
        worker.join(0.5)
        assert worker.is_alive()
        worker.terminate()
        worker.join(20)
        assert not worker.is_alive()
        assert not hook.received
    finally:
        hook.restore()
        worker.kill()
