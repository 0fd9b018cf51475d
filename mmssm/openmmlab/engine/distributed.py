"""Start and end of a distributed run, with the same command on GPUs and on CPU."""

import datetime
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, distributed, nn

from mmssm.openmmlab.engine.mishaps import mishaps_told
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


def is_first(launcher: str) -> bool:
    """Whether this process is, or will be, rank 0; without a launcher it is."""
    names = VARIABLES.get(launcher)
    return names is None or os.environ.get(names['RANK'], '0') == '0'


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
        # mmengine, which opens the group on GPUs, would take one port for all jobs
        os.environ.setdefault('MASTER_PORT', environment['MASTER_PORT'])
        if get_device() == 'cpu':
            os.environ.update(environment)
            dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
            seconds = dist_cfg.get('timeout', 1800)
            timeout = datetime.timedelta(seconds=seconds)
            with waiting_told(dict(os.environ)), mishaps_told():
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


def keep_strides(model: nn.Module) -> None:
    """Let gradients have the strides of their parameters, as DDP's buckets do.

    A library's gradient of a depthwise weight (C, 1, k, k) may count one channel as
    any stride.  The memory is the same, but DDP compares the numbers, and warns.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(partial(_with_strides, parameter.stride()))


def _with_strides(strides: tuple[int, ...], grad: Tensor) -> Tensor | None:
    found = zip(grad.shape, grad.stride(), strides, strict=True)
    if grad.stride() == strides or any(n > 1 and a != b for n, a, b in found):
        return None
    return grad.as_strided(grad.shape, strides)


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
    environment['MASTER_PORT'] = os.environ.get('MASTER_PORT') or _port(launcher)
    gpus, local = torch.cuda.device_count(), int(environment['LOCAL_RANK'])
    if get_device() == 'cuda' and local >= gpus:
        raise UserError(
            f'process {local} of this machine has no GPU: there are {gpus}. Start at '
            f'most {gpus} processes on each machine'
        )
    return environment


def _port(launcher: str) -> str:
    """A port that all processes of a Slurm step come to, and other steps do not."""
    if launcher != 'slurm' or 'SLURM_JOB_ID' not in os.environ:
        return '29500'
    step = int(os.environ.get('SLURM_STEP_ID', '0'))
    return str(20000 + (7 * int(os.environ['SLURM_JOB_ID']) + step) % 12000)


@contextmanager
def waiting_told(environment: Mapping[str, str], every: float = 5.0) -> Iterator[None]:
    """Say for whom this process waits, every few seconds as long as the block lasts."""
    done = threading.Event()
    rank, world = (environment[name] for name in ('RANK', 'WORLD_SIZE'))
    place = f'{environment["MASTER_ADDR"]}:{environment["MASTER_PORT"]}'

    def tell() -> None:
        begun = time.monotonic()
        while not done.wait(every):
            whom = f'for {int(world) - 1} others' if rank == '0' else 'for rank 0'
            print(
                f'rank {rank} of {world} has waited {time.monotonic() - begun:.0f} s '
                f'{whom} at {place}',
                file=sys.stderr,
                flush=True,
            )

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _first_host(launcher: str) -> str:
    nodes = os.environ.get('SLURM_NODELIST')
    if launcher != 'slurm' or nodes is None:
        raise UserError(
            'MASTER_ADDR is not set: give the address of the machine with rank 0'
        )
    command = ['scontrol', 'show', 'hostnames', nodes]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return listed.stdout.split()[0]
