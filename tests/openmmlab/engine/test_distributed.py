"""Several processes on this machine, through the scripts that users call."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from openmmlab.engine import tiny, toy

TOOLS = toy.ROOT / 'tools'


def start(script, *arguments, **variables):
    python = Path(sys.executable).parent  # the scripts call `python`
    environment = toy.environment()
    environment['PATH'] = f'{python}:{environment["PATH"]}'
    return subprocess.Popen(
        ['bash', str(TOOLS / script), *map(str, arguments)],
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(script, *arguments, **variables):
    process = start(script, *arguments, **variables)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def test_two_processes_train_and_test_as_one_does(tmp_path):
    tiny.write_data(tmp_path / 'data')
    config = tiny.write_config(tmp_path, 'segmentation')
    work_dir = ['--work-dir', tmp_path / 'run']
    text = run('dist_train.sh', config, 2, *work_dir, PORT=free_port())
    assert 'SyncBN needs GPUs' in text
    assert 'GPU number: 2' in text
    checkpoint = tmp_path / 'run/iter_4.pth'
    text = run('dist_test.sh', config, checkpoint, 2, *work_dir, PORT=free_port())
    tool = [sys.executable, TOOLS / 'test.py', config, checkpoint, *work_dir]
    one = subprocess.run(tool, env=toy.environment(), capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    pattern = r'aAcc: \S+  mIoU: \S+  mAcc: \S+'
    assert re.findall(pattern, text) == re.findall(pattern, one.stdout)
    assert len(re.findall(pattern, text)) == 1


def test_two_nodes_of_one_process(tmp_path):
    config = toy.write_config(tmp_path, 'epochs')
    nodes = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=free_port())
    arguments = ['dist_train.sh', config, 1, '--work-dir', tmp_path / 'run']
    second = start(*arguments, NODE_RANK='1', **nodes)
    text = run(*arguments, NODE_RANK='0', **nodes)
    assert 'GPU number: 2' in text
    assert second.wait(timeout=60) == 0
    # 12 samples, 2 in a batch, 2 processes: 3 iterations in each of 3 epochs
    assert list(toy.curve(tmp_path / 'run')) == [*range(1, 10)]


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        ('dist_train.sh', ['config.py']),
        ('dist_train.sh', ['config.py', 'many']),
        ('dist_test.sh', ['config.py', '2']),
        ('slurm_train.sh', ['partition', 'job', 'config.py']),
        ('slurm_test.sh', []),
    ],
)
def test_usage(script, arguments):
    process = start(script, *arguments)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert text.startswith('usage: ')


def test_slurm_command(tmp_path):
    fake = tmp_path / 'srun'
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    command = ['slurm_train.sh', 'part', 'a job', 'c.py', 'work dir', '--amp']
    process = start(
        *command,
        PATH=f'{tmp_path}:/usr/bin:/bin',
        GPUS='4',
        SRUN_ARGS='-w node --quiet',
    )
    lines = process.communicate(timeout=60)[0].splitlines()
    assert '--job-name=a job' in lines
    assert lines[3:5] == ['--ntasks=4', '--ntasks-per-node=4']
    assert lines[7:12] == ['-w', 'node', '--quiet', 'python', '-u']
    assert lines[-4:] == ['c.py', '--work-dir=work dir', '--launcher=slurm', '--amp']
