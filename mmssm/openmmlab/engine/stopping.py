"""SIGTERM and SIGUSR1 end a run with a checkpoint to go on from."""

import os
import shlex
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmssm import weights
from mmssm.openmmlab.errors import UserError
from mmssm.registry import HOOKS

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
NAME = 'stopped_iter_{}.pth'


class Stopped(UserError):
    """A run that a signal has ended; the status is that of the signal."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.status = 128 + number


@HOOKS.register_module()
class StopHook(Hook):
    """Saves the run and ends it when SIGTERM or SIGUSR1 asks for that.

    The processes agree after each training iteration, so that all end at the same one,
    whichever was told; the checkpoint is stopped_iter_N.pth in the work_dir, which
    `--resume` finds.  In the middle of an epoch it goes on there, too.  During a
    validation one process stops at once, several after the first iteration behind it;
    a validation that is cut, or due at this very iteration, is not made up for.
    Signals after the first change nothing: launchers and schedulers both send them.

    resume: the command that goes on.
    """

    priority = 'LOWEST'

    def __init__(self, resume: str = 'the same command with --resume') -> None:
        self.resume = resume
        self.received = 0
        self._process = os.getpid()
        self._before: dict[int, Callable | int | None] = {}

    def before_train(self, runner: Runner) -> None:
        for loop in (runner.train_loop, runner.val_loop):
            loader = getattr(loop, 'dataloader', None)  # some runs have no validation
            if isinstance(loader, DataLoader):
                loader.worker_init_fn = partial(_deaf, loader.worker_init_fn)
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._receive)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Mapping | None = None,
    ) -> None:
        told = torch.tensor(self.received)
        dist.all_reduce(told, 'max')
        if told.item():
            self._stop(runner, told.item(), runner.iter + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Sequence | None = None,
    ) -> None:
        # each process may have its own number of batches, so that several cannot ask
        if self.received and dist.get_world_size() == 1 and self._before:
            self._stop(runner, self.received, runner.iter)

    def after_train(self, runner: Runner) -> None:
        self.restore()

    def restore(self) -> None:
        """Handle signals as before the training."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # a forked process, such as those of VOCMetric, which ends them by SIGTERM
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.received = self.received or number

    def _stop(self, runner: Runner, number: int, iteration: int) -> None:
        name = NAME.format(iteration)
        meta = {'iter': iteration, 'epoch': runner.epoch}
        runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
        path = Path(runner.work_dir, name)
        if dist.is_main_process():
            weights.write_whole(path.with_name('last_checkpoint'), str(path).encode())
            for older in path.parent.glob(NAME.format('*')):
                if older != path:
                    older.unlink(missing_ok=True)
        dist.barrier()
        raise Stopped(
            f'{signal.Signals(number).name} after iteration {iteration} of '
            f'{runner.max_iters}: the run is saved in {path}. Go on with: '
            f'{self.resume}',
            number,
        )


def resume_command(cfg: Config, arguments: Sequence[str], world: Mapping) -> str:
    """The command that goes on with a run of `mmssm-train` or of the scripts in tools.

    arguments: of the command that is running.  world: the environment's variables.
    """
    rest, skipped = [], 0
    known = {'--launcher': 1, '--local_rank': 1, '--local-rank': 1, '--work-dir': 1}
    for place, word in enumerate(arguments):
        name, given, _ = word.partition('=')
        if skipped:
            skipped -= 1
        elif name in known:
            skipped = 0 if given else known[name]
        elif name == '--resume':
            following = [*arguments, '-'][place + 1]
            skipped = 0 if given or following.startswith('-') else 1
        elif word != cfg.filename and Path(word).resolve() != Path(cfg.filename or ''):
            rest.append(word)
    config, folder = cfg.filename or 'CONFIG', ['--work-dir', cfg.work_dir]
    if cfg.launcher == 'pytorch':
        count = world.get('LOCAL_WORLD_SIZE', 'GPUS')
        words = ['tools/dist_train.sh', config, count, *folder]
    elif cfg.launcher == 'slurm':
        place = [world.get(f'SLURM_JOB_{n}', n) for n in ('PARTITION', 'NAME')]
        words = ['tools/slurm_train.sh', *place, config, cfg.work_dir]
    elif cfg.launcher == 'mpi':
        words = ['mpirun', 'mmssm-train', config, *folder, '--launcher', 'mpi']
    else:
        words = ['mmssm-train', config, *folder]
    return shlex.join([*words, '--resume', *rest])


def _deaf(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a process that loads data, and that takes signals of its parent only.

    Schedulers signal every process of a job; the end of the parent is its own to tell.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()
    if init is not None:
        init(worker)


def _obey(parent: int) -> None:
    while True:
        told = signal.sigwaitinfo(SIGNALS)
        if told.si_signo == signal.SIGTERM and told.si_pid == parent:
            os._exit(0)
