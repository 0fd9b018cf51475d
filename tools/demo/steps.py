"""Tools in processes of their own, and what they print while they run."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRESS = re.compile(
    r'Iter\((?:train|test)\)\s*\[\s*(\d+)/(\d+)\].*?eta: ([\d:]+)(?:.*?loss: ([\d.]+))?'
)
PR_SET_PDEATHSIG = 1


class Failure(Exception):
    """What stops a tool of this folder, in words for its user."""


START = time.monotonic()
LIVE = sys.stdout.isatty() and os.environ.get('TERM') != 'dumb'


def say(message: str, *, passing: bool = False) -> None:
    """Print a line with the time since the start.

    On a terminal the next line replaces a passing one.
    """
    minutes, seconds = divmod(int(time.monotonic() - START), 60)
    line = f'[{minutes}:{seconds:02d}] {message}'
    if LIVE and passing:
        line = line[: shutil.get_terminal_size().columns - 1]
    if LIVE:
        line = f'\r\033[K{line}'
    print(line, end='' if LIVE and passing else '\n', flush=True)


def _die_with_parent() -> None:
    """A parent that is killed takes its tools with it (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Step:
    """A tool in a process of its own; what it prints goes to a file.

    threads: of OpenMP; None: as many as the environment says, else one.
    """

    def __init__(
        self,
        title: str,
        command: list[str],
        log: Path,
        lock: int,
        threads: int | None = None,
    ) -> None:
        self.title, self.log, self.begin = title, log, time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f'{title}; log: {log}')
        given = {'OMP_NUM_THREADS': str(threads)} if threads else {}
        with log.open('w') as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={'OMP_NUM_THREADS': '1', **os.environ, **given},
                pass_fds=[lock],
                preexec_fn=_die_with_parent,
            )

    def done(self) -> bool:
        """Whether it has finished; Failure when it finished badly."""
        status = self.process.poll()
        if status:
            raise Failure(
                f'{self.title} failed with exit status {status}. Its last words:\n'
                + ''.join(f'    {line}\n' for line in self.last_words(8))
                + f'The whole log: {self.log}'
            )
        return status == 0

    def last_words(self, count: int) -> list[str]:
        """The last lines of the log."""
        return self.log.read_text(errors='replace').strip().split('\n')[-count:]

    def seconds(self) -> float:
        return round(time.monotonic() - self.begin, 1)

    def progress(self) -> str:
        """The state that the log tells: '120/550, loss 0.93, 0:02:41 left'."""
        found = PROGRESS.findall(self.log.read_text(errors='replace'))
        if not found:
            return 'is starting'
        done, total, left, loss = found[-1]
        return f'{done}/{total}, ' + (f'loss {loss}, ' if loss else '') + f'{left} left'


def checkpoint_in(folder: Path) -> Path | None:
    """The last checkpoint of a training, if it is there."""
    note = folder / 'last_checkpoint'
    path = Path(note.read_text().strip()) if note.exists() else None
    return path if path and path.exists() else None


def take_lock(path: Path, tool: str = 'demo') -> int:
    """A descriptor that keeps others out until all who inherit it are gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(
            f'another {tool} is running here (it holds {path}): wait until it has '
            'finished, or stop it'
        ) from None
    return lock
