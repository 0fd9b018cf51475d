"""A hook that writes down what a training holds, and ends it when the time is over."""

import json
import multiprocessing
import os
import time

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

PAGE = os.sysconf('SC_PAGE_SIZE')


@HOOKS.register_module()
class LoadHook(Hook):
    """A line for each step: number, memory in MB (also that of the
    loaders' processes), open files, CPU seconds, loss.

    seconds: of training, from the first step.  least: steps, however long they take.
    file: of the lines.
    """

    priority = 'LOWEST'

    def __init__(self, seconds: float, least: int, file: str) -> None:
        self.seconds, self.least, self.file = seconds, least, file

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self.begin = time.monotonic()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None
    ) -> None:
        """Start the step's."""
        self.start = time.process_time()  # others may use the machine

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: dict | None = None,
    ) -> None:
        """Write the line."""
        took = time.process_time() - self.start
        workers = [child.pid for child in multiprocessing.active_children()]
        memory = sum(_memory(process) for process in ('self', *workers))
        files = len(os.listdir('/proc/self/fd'))
        loss = float(outputs['loss'])
        line = [runner.iter + 1, memory, files, took, loss]
        with open(self.file, 'a') as file:
            file.write(f'{json.dumps(line)}\n')
        over = time.monotonic() - self.begin > self.seconds
        if over and runner.iter + 1 >= self.least:
            runner.train_loop.stop_training = True


def _memory(process: int | str) -> float:
    try:
        with open(f'/proc/{process}/statm') as file:
            return int(file.read().split()[1]) * PAGE / 1e6
    except FileNotFoundError:  # it has ended meanwhile
        return 0.0
