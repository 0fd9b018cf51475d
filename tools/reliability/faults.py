"""Trainings that are killed, and go on as though they had not been."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from tools.reliability.check import Check, Clock, Outcome

ROOT = Path(__file__).resolve().parents[2]


def checks() -> list[Check]:
    """At any moment, and at the worst one."""
    return [
        Check('Faults', '`kill -9` at a random moment', partial(_kill, 'moment'), 25),
        Check(
            'Faults',
            '`kill -9` while a checkpoint is written',
            partial(_kill, 'saving'),
            25,
        ),
    ]


def _kill(kind: str, clock: Clock, seed: int, most: int = 25) -> Outcome:
    """By a process that has computed nothing, which forks the trainings."""
    places = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(places),
        'OMP_NUM_THREADS': '1',
    }
    module = 'tools.reliability.killed'
    numbers = [str(most), str(seed), str(clock.left)]
    done = subprocess.run(
        [sys.executable, '-m', module, kind, *numbers],
        **{'capture_output': True, 'text': True, 'env': environment},
    )
    if done.returncode:
        return Outcome(0, [f'{module} ended with {done.stderr[-2000:]}'])
    found = json.loads(done.stdout.splitlines()[-1])
    remark = f'{found["halves"]} left a half-written file, which was cleared'
    return Outcome(found['tried'], found['failures'], remark if found['halves'] else '')
