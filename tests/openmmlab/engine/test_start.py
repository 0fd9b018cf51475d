"""What launchers set is found, and what they have not set is named."""

import pytest
import torch
from mmengine.config import Config

from mmssm.openmmlab.engine import UserError, distributed

NAMES = {name for group in distributed.VARIABLES.values() for name in group.values()}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (*NAMES, 'MASTER_ADDR', 'MASTER_PORT', 'SLURM_NODELIST'):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('launcher', distributed.VARIABLES)
def test_variables(monkeypatch, launcher):
    names = distributed.VARIABLES[launcher]
    with pytest.raises(UserError, match=f'{launcher}, but .*{names["RANK"]}'):
        distributed.launched(launcher)
    for value, name in enumerate(names.values()):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match='MASTER_ADDR is not set'):
        distributed.launched(launcher)
    monkeypatch.setenv('MASTER_ADDR', 'here')
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    expected = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='2', MASTER_PORT='29500')
    assert distributed.launched(launcher) == expected


def test_more_processes_than_gpus(monkeypatch):
    values = dict(RANK='4', WORLD_SIZE='8', LOCAL_RANK='4', MASTER_ADDR='here')
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    with pytest.raises(UserError, match='process 4 .* at most 4 processes'):
        distributed.launched('pytorch')


def test_no_launcher_opens_no_group():
    with distributed.process_group(Config(dict(launcher='none'))):
        assert not torch.distributed.is_initialized()


def test_group_is_closed_after_an_error(monkeypatch, tmp_path):
    values = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1')
    for name, value in (values | dict(MASTER_PORT='0')).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')

    def fail():
        with distributed.process_group(Config(dict(launcher='pytorch'))):
            assert torch.distributed.get_backend() == 'gloo'
            raise UserError('mistake')

    with pytest.raises(UserError, match='mistake'):
        fail()
    assert not torch.distributed.is_initialized()
