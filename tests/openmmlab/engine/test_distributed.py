"""Several processes on this machine, through the scripts that users call."""

import re
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from openmmlab.engine import distilled, tiny, toy
from torch.distributed import TCPStore

from mmssm.openmmlab import cli
from mmssm.openmmlab.commands import launch
from mmssm.openmmlab.engine import distributed
from mmssm.ops import depthwise_conv

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
    assert 'for each of 2 processes' in text
    assert 'Grad strides' not in text
    checkpoint = tmp_path / 'run/iter_4.pth'
    text = run('dist_test.sh', config, checkpoint, 2, *work_dir, PORT=free_port())
    tool = [sys.executable, TOOLS / 'test.py', config, checkpoint, *work_dir]
    one = subprocess.run(tool, env=toy.environment(), capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    pattern = r'aAcc: \S+  mIoU: \S+  mAcc: \S+'
    assert re.findall(pattern, text) == re.findall(pattern, one.stdout)
    assert len(re.findall(pattern, text)) == 1


def test_two_processes_learn_from_their_average_as_one_does(tmp_path):
    """MESA: weights, and the average that teaches, of halves of the same batches."""
    one, two = (distilled.write_config(tmp_path, size) for size in (8, 4))
    work_dirs = [tmp_path / 'one', tmp_path / 'two']
    cli.train([str(one), '--work-dir', str(work_dirs[0])])
    text = run('dist_train.sh', two, 2, '--work-dir', work_dirs[1], PORT=free_port())
    assert 'for each of 2 processes' in text
    assert text.count('loss_mesa: ') == 6  # of the third and fourth epoch
    alone, together = (
        torch.load(folder / 'epoch_4.pth', weights_only=False) for folder in work_dirs
    )
    for key in ('state_dict', 'ema_state_dict'):
        for name, value in alone[key].items():
            torch.testing.assert_close(together[key][name], value, msg=name)


def test_two_nodes_of_one_process(tmp_path):
    config = toy.write_config(tmp_path, 'epochs')
    nodes = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=free_port())
    arguments = ['dist_train.sh', config, 1, '--work-dir', tmp_path / 'run']
    second = start(*arguments, NODE_RANK='1', **nodes)
    text = run(*arguments, NODE_RANK='0', **nodes)
    assert 'for each of 2 processes' in text
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
        ('sbatch_train.sh', ['config.py']),
    ],
)
def test_usage(script, arguments):
    process = start(script, *arguments)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert text.startswith('usage: ')


@pytest.fixture
def slurm(tmp_path):
    """Run a script where srun and scontrol print their arguments, one to a line.

    Called with (script, arguments, variables); gives the status and the lines.
    """
    for name in ('srun', 'scontrol'):
        fake = tmp_path / name
        printed = f'printf "%s\\n" {name} "$@"'
        fake.write_text(f'#!/usr/bin/env bash\n{printed}\nexit ${{{name}_status:-0}}\n')
        fake.chmod(0o755)

    def call(script, *arguments, **variables):
        path = f'{tmp_path}:/usr/bin:/bin'
        process = start(script, *arguments, PATH=path, **variables)
        text = process.communicate(timeout=60)[0]
        return process.returncode, text.splitlines()

    return call


def test_slurm_command(slurm):
    command = ['slurm_train.sh', 'part', 'a job', 'c.py', 'work dir', '--amp']
    words = "-w node --comment='two words' --note=\"a*'b\" "
    status, lines = slurm(*command, GPUS='4', SRUN_ARGS=words)
    assert status == 0
    assert '--job-name=a job' in lines
    assert lines[3:6] == ['--ntasks=4', '--ntasks-per-node=4', '--gres=gpu:4']
    more = ['-w', 'node', '--comment=two words', "--note=a*'b"]
    assert lines[8:14] == [*more, 'python', '-u']
    assert lines[-4:] == ['c.py', '--work-dir=work dir', '--launcher=slurm', '--amp']


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_slurm_without_gpus_and_on_two_nodes(slurm, script):
    command = [script, 'part', 'job', 'c.py', 'x']
    status, lines = slurm(*command, GPUS='4', GPUS_PER_NODE='0')
    assert status == 0
    assert '--ntasks=4' in lines
    assert not [line for line in lines if 'gres' in line or 'per-node' in line]
    assert lines[lines.index('--kill-on-bad-exit=1') + 1] == 'python'
    _, lines = slurm(*command, GPUS='16', GPUS_PER_NODE='8')
    assert lines[3:6] == ['--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8']
    status, lines = slurm(*command, GPUS='none')
    assert status == 2
    assert "GPUS is 'none'" in lines[0]


@pytest.mark.parametrize(('ended', 'again'), [(138, True), (143, True), (1, False)])
def test_a_job_that_was_stopped_queues_again(slurm, ended, again):
    command = ['sbatch_train.sh', 'c.py', 'work dir', '--amp']
    status, lines = slurm(*command, srun_status=str(ended), SLURM_JOB_ID='77')
    assert status == ended
    assert lines[0] == 'srun'
    assert '--work-dir=work dir' in lines
    assert {'--resume', '--launcher=slurm', '--amp'} <= {*lines}
    assert (lines[-3:] == ['scontrol', 'requeue', '77']) is again


def test_the_port_of_a_slurm_job_is_its_own(monkeypatch):
    for name, value in dict(PROCID=0, NTASKS=2, LOCALID=0, STEP_ID=1).items():
        monkeypatch.setenv(f'SLURM_{name}', str(value))
    monkeypatch.setenv('MASTER_ADDR', 'host')
    monkeypatch.delenv('MASTER_PORT', raising=False)
    ports = set()
    for job in ('100', '101', '4123456'):
        monkeypatch.setenv('SLURM_JOB_ID', job)
        ports.add(distributed.launched('slurm')['MASTER_PORT'])
    assert len(ports) == 3
    assert all(1024 < int(port) < 32768 for port in ports)
    monkeypatch.setenv('MASTER_PORT', '1234')
    assert distributed.launched('slurm')['MASTER_PORT'] == '1234'


@pytest.mark.parametrize(
    ('variables', 'words'),
    [
        (dict(NNODES='2', MASTER_ADDR='host'), 'NNODES=2 needs a PORT'),
        (dict(NNODES='2', PORT='29500'), 'NNODES=2 needs MASTER_ADDR'),
        (dict(NODE_RANK='1'), 'NODE_RANK is 1; expected 0 to 0'),
    ],
)
def test_nodes_that_do_not_fit_together(variables, words, capsys):
    with pytest.raises(SystemExit):
        launch.read_nodes(variables)
    assert words in capsys.readouterr().err


def test_ports(capsys):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit):
            launch.read_nodes(dict(PORT=port))
        assert f'port {port} of this machine is taken' in capsys.readouterr().err
        # another node does not open it
        nodes = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='host', PORT=port)
        assert launch.read_nodes(nodes) == (2, 1, 'host', int(port))
    assert launch.is_free(launch.read_nodes({}).port)


def test_a_node_says_for_whom_it_waits(capsys, monkeypatch):
    # other tests of this process may have left servers of multiprocessing behind
    monkeypatch.setattr(launch, 'has_children', lambda: False)
    nodes = launch.Nodes(3, 0, '127.0.0.1', int(free_port()))
    assert launch.whom(nodes) == 'node 0, which does not answer'
    limit = timedelta(seconds=5)
    address = (nodes.address, nodes.port)
    server = TCPStore(*address, None, True, limit, wait_for_workers=False)
    assert launch.whom(nodes) == '2 of them: 1, 2'
    assert launch.whom(nodes._replace(rank=1)) == '1 of them: 2'
    text = ''
    with launch.waiting_told(nodes, every=0.05):
        for _ in range(200):
            time.sleep(0.05)
            if text := capsys.readouterr().err:
                break
    del server
    place = f'127.0.0.1:{nodes.port}'
    assert re.match(rf'node 0 of 3 has waited \d+ s at {place} for 1 of them: 2', text)


def test_a_process_knows_that_it_has_children():
    with subprocess.Popen(['sleep', '60']) as child:
        assert launch.has_children()
        child.kill()


def test_a_rank_says_for_whom_it_waits(capsys):
    place = dict(WORLD_SIZE='4', MASTER_ADDR='host', MASTER_PORT='29')
    for rank, whom in (('0', '3 others'), ('2', 'rank 0')):
        with distributed.waiting_told(dict(place, RANK=rank), every=0.01):
            time.sleep(0.2)
        line = capsys.readouterr().err.splitlines()[0]
        assert line == f'rank {rank} of 4 has waited 0 s for {whom} at host:29'


def test_a_killed_rank_ends_with_the_way_on(tmp_path):
    config = toy.write_config(tmp_path, 'epochs')
    text = config.read_text().replace("type='DieHook'", "type='DieHook', after=2")
    config.write_text(text)
    process = start('dist_train.sh', config, 2, '--work-dir', tmp_path / 'run')
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert 'of this machine was ended by SIGKILL, which the kernel sends' in text
    command = f'tools/dist_train.sh {config} 2 --resume --work-dir {tmp_path}/run'
    assert text.rstrip().endswith(f'Go on with: {command}')
    assert 'ChildFailedError' not in text
    assert launch.how_it_ended(0, 1, 'x') == ''
    assert launch.resume_line('test', '2', ['c.py']) == ''


def test_gradients_have_the_strides_of_their_parameters():
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    strides = []
    for keep in (False, True):
        conv = torch.nn.Conv2d(4, 4, 3, groups=4)
        if keep:
            distributed.keep_strides(conv)
        conv(x).sum().backward()
        strides.append(conv.weight.grad.stride())
    assert strides == [(9, 1, 3, 1), (9, 9, 3, 1)]
    other = torch.randn(2, 3).t()
    assert distributed._with_strides((2, 1), other) is None  # another order in memory


@pytest.mark.parametrize('activation', [None, 'silu'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_depthwise_gradients_have_the_strides_of_their_weights(activation, layout):
    weight = torch.randn(8, 1, 3, 3, requires_grad=True)
    x = torch.randn(2, 8, 9, 7).to(memory_format=layout)
    y = depthwise_conv(x, weight, torch.zeros(8), activation=activation)
    y.square().sum().backward()
    assert weight.grad.stride() == weight.stride()
