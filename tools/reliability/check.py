"""What a check of reliability is, and what comes of it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Outcome(NamedTuple):
    """What a check found.

    tried: how many cases.  failures: one text for each that failed.  remark: what a
    reader of the table has to know, such as refusals that are counted as right.
    """

    tried: int
    failures: list[str]
    remark: str = ''


class Clock:
    """The time that a check may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, 0 or more."""
        return max(0.0, self._end - time.monotonic())

    def counts(self, most: int) -> Iterator[int]:
        """0, 1, ... below `most`, once at least, until the time is over."""
        for number in range(most):
            if number and not self.left:
                return
            yield number


class Check(NamedTuple):
    """One line of the table.

    section: of the table.  title: what is tried.  run: (time, seed) -> outcome.
    cases: as many as are asked for when time allows; fewer are said to be fewer.
    weight: part of the time, relative to others.
    """

    section: str
    title: str
    run: Callable[[Clock, int], Outcome]
    cases: int
    weight: float = 1.0


def python(*arguments: str | os.PathLike) -> subprocess.CompletedProcess[str]:
    """Run Python at the root, where it finds the package, the tools and the tests."""
    places = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, places))}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
