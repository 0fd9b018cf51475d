"""A config for GPUs, changed for a machine without."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmssm.openmmlab.engine.cpu import BFloat16OptimWrapper, adapt_to_cpu
from mmssm.openmmlab.errors import UserError

WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None)


def config(launcher='none', **parts):
    return Config(dict(launcher=launcher, **parts))


def test_nothing_to_change():
    cfg = config(model=dict(norm_cfg=dict(type='SyncBN')))
    assert adapt_to_cpu(cfg) == []
    assert cfg.model.norm_cfg.type == 'SyncBN'


def test_mixed_precision_becomes_bfloat16():
    clipped = dict(clip_grad=dict(max_norm=1))
    cfg = config(optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16', **clipped))
    assert 'bfloat16' in adapt_to_cpu(cfg)[0]
    assert cfg.optim_wrapper == dict(
        type='BFloat16OptimWrapper', clip_grad=dict(max_norm=1)
    )


def test_bfloat16_wrapper_trains_float_parameters():
    model = nn.Linear(3, 2)
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), 0.1))
    before = model.weight.clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 3))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)
    assert not torch.is_autocast_enabled('cpu')


def test_distributed_runs_lose_sync_norms_and_device_ids():
    norms = [dict(type='SyncBN', eps=1e-3), dict(type='LN'), dict(type='MMSyncBN')]
    cfg = config('pytorch', sync_bn='torch', model=dict(parts=norms))
    assert '2 norm_cfg changed' in adapt_to_cpu(cfg)[0]
    assert [norm.type for norm in cfg.model.parts] == ['BN', 'LN', 'BN']
    assert cfg.model.parts[0].eps == 1e-3
    assert cfg.sync_bn is None
    stock = dict(broadcast_buffers=False, find_unused_parameters=False)
    assert cfg.model_wrapper_cfg == dict(WRAPPER, **stock)


def test_wrappers_of_the_config_are_kept():
    cfg = config('slurm', model_wrapper_cfg=dict(find_unused_parameters=True))
    assert adapt_to_cpu(cfg) == []
    assert cfg.model_wrapper_cfg == dict(WRAPPER, find_unused_parameters=True)
    other = dict(type='MMSeparateDistributedDataParallel')
    cfg = config('pytorch', model_wrapper_cfg=other)
    adapt_to_cpu(cfg)
    assert cfg.model_wrapper_cfg == other


@pytest.mark.parametrize(
    ('key', 'kind'),
    [
        ('model_wrapper_cfg', 'MMFullyShardedDataParallel'),
        ('strategy', 'FSDPStrategy'),
    ],
)
def test_sharding_needs_gpus(key, kind):
    cfg = Config({key: dict(type=kind), 'launcher': 'pytorch'})
    with pytest.raises(UserError, match=rf'{key}\.type={kind}: .* on GPUs only'):
        adapt_to_cpu(cfg)
