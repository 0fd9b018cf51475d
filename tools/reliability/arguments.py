"""Wrong arguments of backbones and wrong keys of configs: an error that names them."""

import json
from functools import partial

from tools.reliability.check import Check, Clock, Outcome, python


def checks() -> list[Check]:
    """By the scripts of the tests."""
    return [
        Check(
            'Arguments',
            'backbones',
            partial(_mutants, 'wrong_arguments', 500, 2000),
            2000,
        ),
        Check('Arguments', 'configs', partial(_mutants, 'wrong_configs', 50, 500), 500),
    ]


def _mutants(script: str, step: int, most: int, clock: Clock, seed: int) -> Outcome:
    """A process for each `step` mutants, which the script makes from a seed."""
    failures, tried = [], 0
    for number in clock.counts(most // step):
        done = python(f'tests/{script}.py', str(step), str(seed + number))
        if done.returncode:
            failures.append(f'{script} ended with {done.stderr[-2000:]}')
            break
        failures += json.loads(done.stdout.splitlines()[-1])
        tried += step
    return Outcome(tried, failures)
