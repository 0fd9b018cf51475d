"""What the README shows is true: its Python runs, its commands and links exist."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmssm.openmmlab import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


def run(code):
    command = [sys.executable, '-W', 'ignore', '-c', code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


def test_models_with_torch_alone():
    (code,) = (
        block for block in BLOCKS if 'create_model(' in block and 'timm' not in block
    )
    run(
        code + 'assert [m.shape[1] for m in maps] == backbone.feature_info.channels()\n'
        'assert logits.shape == (2, 10)\n'
    )


def test_a_host_of_another_package():
    if find_spec('timm') is None:
        pytest.skip('timm is not installed')
    (code,) = (block for block in BLOCKS if 'timm' in block)
    schemas = (ROOT / 'tests/conftest.py').read_text()
    without_download = code.replace('pretrained=True', 'pretrained=False')
    assert without_download != code
    run(schemas + '\n' + without_download + 'assert swin is not None\n')


def test_every_block_is_python_and_is_known():
    for block in BLOCKS:
        compile(block, 'README.md', 'exec')
    assert len(BLOCKS) == 3  # two are run here, one is a config


def test_every_command_is_installed():
    shown = set(re.findall(r'`(mmssm-[a-z-]+)', README))
    setup = (ROOT / 'setup.py').read_text()
    assert shown
    for command in shown:
        name = command.removeprefix('mmssm-')
        assert f"'{name}'" in setup
        assert callable(getattr(cli, name.replace('-', '_')))


@pytest.mark.parametrize(
    'page',
    [
        'README.md',
        *sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'docs').glob('*.md')),
    ],
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r'\]\(([^)#]+)', text):
        if '://' not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
