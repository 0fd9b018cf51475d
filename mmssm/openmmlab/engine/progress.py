"""A live progress bar where there is a terminal to show it on."""

import atexit
import logging
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from mmssm.registry import HOOKS

REFRESH_SECONDS = 0.1


def has_terminal() -> bool:
    """Whether standard output is a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get('TERM') != 'dumb'


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows loss, learning rate, time left and memory of a run while it lasts.

    On a terminal a bar stays at the bottom, with a second one during validation;
    mmengine's line per iterations goes to the log file only, all other lines scroll
    above the bar.  Without a terminal, and on every rank but 0, the hook does nothing:
    mmengine's plain lines are the progress.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._consoles: list[logging.StreamHandler] = []
        self._shown = 0.0

    def before_train(self, runner: Runner) -> None:
        self._begin(runner, 'train', runner.max_iters, runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping | None = None,
        outputs: Mapping | None = None,
    ) -> None:
        if self._is_due(runner.iter + 1 == runner.max_iters):
            text = 'train'
            if isinstance(runner.train_loop, EpochBasedTrainLoop):
                text = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
            self._show('train', runner.iter + 1, text, _state(runner))

    def after_train(self, runner: Runner) -> None:
        self._end('train')

    def before_val(self, runner: Runner) -> None:
        self._begin(runner, 'validation', len(runner.val_dataloader))

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        if self._is_due(batch_idx + 1 == len(runner.val_dataloader)):
            self._show('validation', batch_idx + 1, 'validation', _memory())

    def after_val(self, runner: Runner) -> None:
        self._end('validation')

    def before_test(self, runner: Runner) -> None:
        self._begin(runner, 'test', len(runner.test_dataloader))

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        if self._is_due(batch_idx + 1 == len(runner.test_dataloader)):
            self._show('test', batch_idx + 1, 'test', _memory())

    def after_test(self, runner: Runner) -> None:
        self._end('test')

    def _begin(self, runner: Runner, name: str, total: int, done: int = 0) -> None:
        if runner.rank != 0 or not has_terminal():
            return
        if self._progress is None:
            self._open(runner.logger)
        self._tasks[name] = self._progress.add_task(
            name, total=total, completed=done, state=''
        )
        self._progress.refresh()

    def _end(self, name: str) -> None:
        if name not in self._tasks:
            return
        task = self._tasks.pop(name)
        if self._tasks:
            self._progress.remove_task(task)
        else:
            self._close()

    def _is_due(self, last: bool) -> bool:
        """Whether to draw now: often enough to live, seldom enough to cost nothing."""
        now = time.monotonic()
        if self._progress is None or not (last or now - self._shown > REFRESH_SECONDS):
            return False
        self._shown = now
        return True

    def _show(self, name: str, done: int, text: str, state: str) -> None:
        if name in self._tasks:
            task = self._tasks[name]
            self._progress.update(task, completed=done, description=text, state=state)
            self._progress.refresh()

    def _open(self, logger: logging.Logger) -> None:
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn('{task.fields[state]}'),
            TimeRemainingColumn(),
            TextColumn('left'),
            console=Console(),
            expand=True,
            # a thread that draws could hold a lock while a worker process is forked
            auto_refresh=False,
        )
        self._progress.start()
        atexit.register(self._close)
        # rich has put a proxy that prints above the bar in the place of sys.stdout
        self._consoles = [
            handler
            for handler in logger.handlers
            if isinstance(handler, logging.StreamHandler)
            and not isinstance(handler, logging.FileHandler)
        ]
        for handler in self._consoles:
            handler.setStream(sys.stdout)
            handler.addFilter(_is_not_iteration)

    def _close(self) -> None:
        if self._progress is None:
            return
        self._progress.stop()
        self._progress = None
        self._tasks.clear()
        atexit.unregister(self._close)
        for handler in self._consoles:
            handler.setStream(sys.stdout)
            handler.removeFilter(_is_not_iteration)


def _is_not_iteration(record: logging.LogRecord) -> bool:
    """False for mmengine's line per iterations, which the bar replaces."""
    per_iteration = ('after_train_iter', 'after_val_iter', 'after_test_iter')
    return record.module != 'logger_hook' or record.funcName not in per_iteration


def _state(runner: Runner) -> str:
    """Mean loss of the last ten iterations, learning rate, memory."""
    parts = []
    scalars = runner.message_hub.log_scalars
    if 'train/loss' in scalars:
        parts.append(f'loss {scalars["train/loss"].mean(10):.4g}')
    if 'train/lr' in scalars:
        parts.append(f'lr {scalars["train/lr"].current():.2e}')
    return '  '.join([*parts, _memory()])


def _memory() -> str:
    """Most memory used so far: of the GPU, without one of this process."""
    if torch.cuda.is_available():
        used = torch.cuda.max_memory_allocated()
    else:
        used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f'{used / 2**30:.1f} GiB'
