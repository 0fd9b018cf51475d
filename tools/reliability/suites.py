"""What tests of the suite claim, counted."""

import re
import tempfile
import xml.etree.ElementTree as tree
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tools.reliability.check import Check, Clock, Outcome, python


def checks() -> list[Check]:
    """Each a part of the suite."""
    return [
        _suite(
            'Untrusted files', 'hostile files', 'tests/weights/test_hostile_files.py'
        ),
        _suite(
            'Data',
            'bad pictures and annotations, seven formats',
            *(
                'tests/openmmlab/test_bad_data.py',
                'tests/openmmlab/test_any_dataset.py',
            ),
        ),
        _suite(
            'Faults',
            'a rank that dies, disks that are full, one folder for two trainings',
            'tests/openmmlab/engine/test_mishaps.py',
        ),
        _suite(
            'Faults',
            'losses that are not finite',
            'tests/openmmlab/engine/test_non_finite.py',
        ),
        _suite(
            'Faults',
            'damaged checkpoints, signals',
            *('tests/openmmlab/engine/test_loading.py',),
            *('tests/openmmlab/engine/test_stopping.py',),
        ),
    ]


def _suite(section: str, title: str, *files: str) -> Check:
    return Check(section, title, partial(_run, files), 1)


def _run(files: Sequence[str], clock: Clock, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        report = Path(name, 'report.xml')
        done = python('-m', 'pytest', '-q', *files, f'--junitxml={report}')
        if not report.is_file():
            return Outcome(0, [f'pytest ended with {done.stdout[-1000:]}'])
        suite = tree.parse(report).getroot().find('testsuite')
    skipped = int(suite.get('skipped'))
    failures = re.findall(r'^(?:FAILED|ERROR) .*$', done.stdout, re.MULTILINE)
    remark = f'{skipped} skipped' if skipped else ''
    return Outcome(int(suite.get('tests')) - skipped, failures, remark)
