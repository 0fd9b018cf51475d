"""What a config written for GPUs needs to run without one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmssm.openmmlab.errors import UserError

SYNCHRONISED_NORMS = ('SyncBN', 'MMSyncBN')
DATA_PARALLEL = 'MMDistributedDataParallel'


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward passes under CPU autocast to bfloat16, which needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def adapt_to_cpu(cfg: Config) -> list[str]:
    """Change a config in place so that it trains and tests on CPU.

    Mixed precision becomes bfloat16; in distributed runs SyncBN becomes BN (mmengine
    does so itself otherwise) and data parallelism gets no device ids.
    Returns a line for the log for each change.  Raises UserError for sharding, which
    PyTorch does on accelerators only.
    """
    for key in ('model_wrapper_cfg', 'strategy'):
        kind = str((cfg.get(key) or {}).get('type', ''))
        if 'FullyShardedDataParallel' in kind or 'FSDP' in kind:
            raise UserError(
                f'{key}.type={kind}: PyTorch shards models on GPUs only, and there is '
                f'none here. Take {key} out of the config: --cfg-options {key}=None '
                'trains the whole model in each process'
            )
    notes = []
    optim = cfg.get('optim_wrapper') or {}
    if optim.get('type') == 'AmpOptimWrapper':
        wanted = optim.get('dtype') or 'float16'
        optim['type'] = 'BFloat16OptimWrapper'
        for option in ('dtype', 'loss_scale', 'use_fsdp'):
            optim.pop(option, None)
        notes.append(f'mixed precision on CPU: bfloat16 (the config asks for {wanted})')
    if cfg.get('launcher', 'none') == 'none':
        return notes
    replaced = _replace_norms(cfg.get('model'))
    if replaced or cfg.get('sync_bn'):
        cfg.sync_bn = None
        notes.append(
            'SyncBN needs GPUs: running with BN, whose statistics are those of each '
            f'process ({replaced} norm_cfg changed)'
        )
    wrapper = cfg.get('model_wrapper_cfg') or {
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    if wrapper.get('type', DATA_PARALLEL) == DATA_PARALLEL:
        cfg.model_wrapper_cfg = {'type': DATA_PARALLEL, 'device_ids': None, **wrapper}
    return notes


def _replace_norms(node: object) -> int:
    """Turn synchronised batch norms of a config's part into BN; how many."""
    if isinstance(node, dict):
        found = node.get('type') in SYNCHRONISED_NORMS
        if found:
            node['type'] = 'BN'
        return found + sum(_replace_norms(part) for part in node.values())
    if isinstance(node, list | tuple):
        return sum(_replace_norms(part) for part in node)
    return 0
