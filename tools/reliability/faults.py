"""Trainings that are killed, and go on as though they had not been."""

import json
from functools import partial

from tools.reliability.check import Check, Clock, Outcome, python


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
    module = 'tools.reliability.killed'
    done = python('-m', module, kind, str(most), str(seed), str(clock.left))
    if done.returncode:
        return Outcome(0, [f'{module} ended with {done.stderr[-2000:]}'])
    found = json.loads(done.stdout.splitlines()[-1])
    remark = f'{found["halves"]} left a half-written file, which was cleared'
    return Outcome(found['tried'], found['failures'], remark if found['halves'] else '')
