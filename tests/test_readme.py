"""What README.md says is true of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmssm.openmmlab import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
PYTHON = re.findall(r'^```python\n(.*?)^```', README, re.DOTALL | re.MULTILINE)
PROGRAMS = [text for text in PYTHON if '_base_' not in text]
SHELL = '\n'.join(re.findall(r'^```bash\n(.*?)^```', README, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize('program', PROGRAMS)
def test_programs_run_without_openmmlab(program):
    code = (
        'import sys\n'
        "for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg'): sys.modules[name] = None\n"
        f'{program}'
    )
    # a comment that is nothing but shapes says what stands before it
    for name, shapes in re.findall(r'^(\w+) = .*# (\(\d[\d, ()]*)$', program, re.M):
        code += (
            f'found = {name} if isinstance({name}, tuple) else ({name},)\n'
            f'expected = ({shapes},)\n'
            'expected = expected if isinstance(expected[0], tuple) else (expected,)\n'
            'assert tuple(tuple(y.shape) for y in found) == expected, found\n'
        )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_there_are_programs_and_configs():
    assert PROGRAMS
    assert len(PYTHON) > len(PROGRAMS)


def test_the_config_is_one():
    for text in set(PYTHON) - set(PROGRAMS):
        own = re.sub(r'^_base_.*\n', '', text, flags=re.MULTILINE)
        backbone = Config.fromstring(own, '.py').model.backbone
        assert backbone.type.startswith('mmssm.')


def test_files_and_commands_of_the_shell_lines_exist():
    for path in re.findall(r'(?:configs|tools|requirements)/[\w./-]+', SHELL):
        assert (ROOT / path).exists(), path
    commands = set(re.findall(r'mmssm-([a-z-]+)', README))
    assert commands >= {'train', 'test', 'doctor'}
    for name in commands:
        assert callable(getattr(cli, name.replace('-', '_'))), name
    targets = re.findall(r'^make (\w+)', SHELL, re.MULTILINE)
    makefile = (ROOT / 'Makefile').read_text()
    assert all(f'\n{target}:' in makefile for target in targets)
