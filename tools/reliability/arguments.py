"""Wrong arguments of backbones and wrong keys of configs: an error that names them."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from tools.reliability.check import Check, Clock, Outcome

ROOT = Path(__file__).resolve().parents[2]


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
    places = os.environ.get('PYTHONPATH', '')
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{places}'}
    for number in clock.counts(most // step):
        command = [sys.executable, f'tests/{script}.py', str(step), str(seed + number)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment
        )
        if done.returncode:
            failures.append(f'{script} ended with {done.stderr[-2000:]}')
            break
        failures += json.loads(done.stdout.splitlines()[-1])
        tried += step
    return Outcome(tried, failures)
