"""What ends a run from outside is one line, and names the way on."""

import errno
import itertools
import os
import subprocess
import sys

import pytest
from mmengine.visualization import LocalVisBackend
from openmmlab.engine import toy
from torch import distributed

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine import mishaps
from mmssm.openmmlab.errors import UserError

NUMBERS = itertools.count()


def train(config, work_dir, *flags, changes=()):
    name = f'experiment_name=mishap{next(NUMBERS)}'
    arguments = [str(config), '--work-dir', str(work_dir), *flags]
    cli.train([*arguments, '--cfg-options', name, *changes])


@pytest.mark.parametrize(
    ('number', 'words'),
    [(errno.ENOSPC, 'no space is left for'), (errno.EDQUOT, 'the quota is used up')],
)
def test_full_disk_while_the_log_is_written(tmp_path, monkeypatch, number, words):
    plain = LocalVisBackend.add_scalars

    def full(self, scalars, step=0, *args, **options):
        if step == 8:
            raise OSError(number, os.strerror(number), 'scalars.json')
        plain(self, scalars, step, *args, **options)

    monkeypatch.setattr(LocalVisBackend, 'add_scalars', full)
    config = toy.write_config(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train(config, tmp_path / 'run')
    assert words in stop.value.code
    assert 'Make room. Then go on with: mmssm-train' in stop.value.code
    assert '\n' not in stop.value.code
    monkeypatch.undo()
    train(config, tmp_path / 'run', '--resume')
    assert sorted(toy.curve(tmp_path / 'run')) == [*range(1, 19)]


@pytest.mark.parametrize('error', [OSError(errno.EACCES, 'x'), RuntimeError('peer')])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)), mishaps.mishaps_told():
        raise error


def test_package_of_a_logger(tmp_path, monkeypatch):
    for name in ('wandb', 'tensorboard', 'torch.utils.tensorboard', 'tensorboardX'):
        monkeypatch.setitem(sys.modules, name, None)
    config = toy.write_config(tmp_path)
    plain = config.read_text()
    for kind, package in (('Wandb', 'wandb'), ('Tensorboard', 'tensorboard')):
        shown = f"dict(type='Visualizer', vis_backends=[dict(type='{kind}VisBackend')])"
        config.write_text(f'{plain}\nvisualizer = {shown}\n')
        with pytest.raises(SystemExit) as stop:
            train(config, tmp_path / kind)
        text = stop.value.code
        assert 'needs a package that is not installed: pip install' in text
        assert package in text
        assert 'take it out of vis_backends' in text
    with pytest.raises(ImportError, match='other'), mishaps.mishaps_told():
        raise ImportError('other')


def test_port_that_is_taken(monkeypatch):
    monkeypatch.setenv('MASTER_ADDR', 'host')
    monkeypatch.setenv('MASTER_PORT', '29500')
    words = r'port 29500 of host is taken .*PORT=29501'
    with pytest.raises(UserError, match=words), mishaps.mishaps_told():
        raise distributed.DistNetworkError('address already in use (EADDRINUSE)')


def test_process_that_is_gone(monkeypatch):
    monkeypatch.setattr(distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(distributed, 'get_world_size', lambda: 2)
    monkeypatch.setattr(distributed, 'get_rank', lambda: 1)
    with pytest.raises(mishaps.PeerLost) as lost, mishaps.mishaps_told('COMMAND'):
        raise RuntimeError('Connection closed by peer [10.0.0.1]\nmore')
    text = str(lost.value)
    assert text.startswith('rank 1 lost another process of the run')
    assert text.endswith('Then go on with: COMMAND')
    assert '\n' not in text
    with pytest.raises(RuntimeError, match='shapes'), mishaps.mishaps_told():
        raise RuntimeError('shapes differ')


def test_everybody_says_that_another_is_gone(monkeypatch, capsys):
    monkeypatch.setenv('LOCAL_RANK', '1')

    def command(error):
        def run(name, argv):
            raise error

        return run

    with pytest.raises(SystemExit) as silent:
        cli._run('name', command(UserError('words')), [])
    assert silent.value.code == 1
    with pytest.raises(SystemExit, match='words'):
        cli._run('name', command(mishaps.PeerLost('words')), [])


HOLD = """
import sys, time
from mmssm.openmmlab.engine.mishaps import only_run_in
with only_run_in(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_two_runs_in_one_folder(tmp_path):
    held = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)],
        env=toy.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert held.stdout.readline() == 'held\n'
    config = toy.write_config(tmp_path)
    words = rf'running: process {held.pid} on \S+\. .*--work-dir FOLDER'
    with pytest.raises(SystemExit, match=words):
        train(config, tmp_path)
    assert not list(tmp_path.glob('*.pth'))
    held.kill()
    held.wait()
    with mishaps.only_run_in(str(tmp_path)):
        text = (tmp_path / mishaps.LOCK).read_text()
        assert text.startswith(f'process {os.getpid()} on ')


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    held = mishaps.only_run_in(str(tmp_path / 'file/run'))
    with pytest.raises(UserError, match='cannot write to the work_dir .*/run'), held:
        pass
