"""Start and end of a distributed run, with the same command on GPUs and on CPU."""

import datetime
import gc
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import distributed

from mmssm.openmmlab.errors import UserError

# what each launcher calls the variables of torch.distributed
VARIABLES = {
    'pytorch': {name: name for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')},
    'slurm': {
        'RANK': 'SLURM_PROCID',
        'WORLD_SIZE': 'SLURM_NTASKS',
        'LOCAL_RANK': 'SLURM_LOCALID',
    },
    'mpi': {
        'RANK': 'OMPI_COMM_WORLD_RANK',
        'WORLD_SIZE': 'OMPI_COMM_WORLD_SIZE',
        'LOCAL_RANK': 'OMPI_COMM_WORLD_LOCAL_RANK',
    },
}
LAUNCHERS = ('none', *VARIABLES)
HOW = {
    'pytorch': 'tools/dist_train.sh or torchrun',
    'slurm': 'tools/slurm_train.sh or srun',
    'mpi': 'mpirun',
}


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Processes that can talk to each other for as long as the block lasts.

    Keep no reference to the runner or its model beyond the block.

    On CPU the group is opened here, with gloo; mmengine would ask for a GPU.  On
    other devices mmengine opens it (NCCL on GPUs) when it builds the runner.
    Raises UserError when the launcher has not started the process, or has started
    more processes than there are GPUs.
    """
    if cfg.launcher != 'none':
        environment = launched(cfg.launcher)
        if get_device() == 'cpu':
            os.environ.update(environment)
            dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
            seconds = dist_cfg.get('timeout', 1800)
            timeout = datetime.timedelta(seconds=seconds)
            distributed.init_process_group('gloo', timeout=timeout)
    failed = True
    try:
        yield
        failed = False
    finally:
        # after an error NCCL may wait for the other ranks; gloo never does
        if distributed.is_initialized() and (
            not failed or distributed.get_backend() == 'gloo'
        ):
            # The model holds the group, and cycles hold the model; a group that is
            # still held when Python ends may abort the process.
            gc.collect()
            distributed.destroy_process_group()


def launched(launcher: str) -> dict[str, str]:
    """The variables of torch.distributed as this launcher has set them."""
    names = VARIABLES[launcher]
    absent = [name for name in names.values() if name not in os.environ]
    if absent:
        raise UserError(
            f'--launcher {launcher}, but {", ".join(absent)} is not set: start the '
            f'processes with {HOW[launcher]}, or use --launcher none for one process'
        )
    environment = {name: os.environ[theirs] for name, theirs in names.items()}
    if 'MASTER_ADDR' not in os.environ:
        environment['MASTER_ADDR'] = _first_host(launcher)
    environment['MASTER_PORT'] = os.environ.get('MASTER_PORT', '29500')
    gpus, local = torch.cuda.device_count(), int(environment['LOCAL_RANK'])
    if get_device() == 'cuda' and local >= gpus:
        raise UserError(
            f'process {local} of this machine has no GPU: there are {gpus}. Start at '
            f'most {gpus} processes on each machine'
        )
    return environment


def _first_host(launcher: str) -> str:
    nodes = os.environ.get('SLURM_NODELIST')
    if launcher != 'slurm' or nodes is None:
        raise UserError(
            'MASTER_ADDR is not set: give the address of the machine with rank 0'
        )
    command = ['scontrol', 'show', 'hostnames', nodes]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return listed.stdout.split()[0]
