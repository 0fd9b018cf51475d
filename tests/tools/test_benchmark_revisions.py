"""The suite measures other commits and other checkouts beside this one."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import mmssm
from tools.benchmarks import case, official, revisions, run

FUSION = ['--groups', 'ops', '--cases', 'state_fusion', '--no-peak']
FUSION += ['--sizes', '32x40', '--repeats', '2']


def status(arguments: list[str]) -> object:
    """What the command ends with: None or a number, or a message."""
    with pytest.raises(SystemExit) as end:
        run.main(arguments)
    return end.value.code


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """A checkout whose last commit has a wrong scan, and the one before a right one."""
    files = shutil.ignore_patterns('__pycache__', '.mim')
    shutil.copytree(Path(mmssm.__file__).parent, tmp_path / 'mmssm', ignore=files)
    git = ['git', '-C', str(tmp_path), '-c', 'user.name=t', '-c', 'user.email=t@t']

    def commit() -> None:
        for command in (['add', '-A'], ['commit', '-qm', 'Change']):
            subprocess.run([*git, *command], check=True)

    subprocess.run([*git, 'init', '-q'], check=True)
    commit()
    naive = tmp_path / 'mmssm/ops/fusion/naive.py'
    right = naive.read_text()
    naive.write_text(right.replace('mixed + scale', 'mixed + 2 * scale'))
    assert naive.read_text() != right
    commit()
    naive.write_text(right)
    monkeypatch.setattr(revisions, 'ROOT', tmp_path)
    monkeypatch.setattr(run, 'ROUNDS', 1)
    return tmp_path


def test_base_is_measured_in_turns(repository, tmp_path):
    results = tmp_path / 'results.json'
    options = ['--mode', 'inference', '--base', 'HEAD~1', '--json', str(results)]
    assert status([*FUSION, *options]) == 0
    (row,) = json.loads(results.read_text())['rows']
    assert len(row['seconds']) == len(row['base_seconds']) == 2
    assert row['of_base'] > 0
    listed = ['git', '-C', str(repository), 'worktree', 'list']
    trees = subprocess.run(listed, check=True, capture_output=True, text=True)
    assert len(trees.stdout.splitlines()) == 1


def test_base_has_a_gate_of_its_own(repository):
    message = status([*FUSION, '--base', 'HEAD'])
    assert 'nothing was timed: ops/state_fusion' in message


def test_an_unknown_base_is_named(repository):
    assert '--base nowhere' in status([*FUSION, '--base', 'nowhere'])


def test_a_model_of_another_checkout(tmp_path):
    (tmp_path / 'theirs.py').write_text(
        'import torch\ndef make(): return torch.nn.Conv2d(3, 5, 1)\n'
    )
    spec = official.Official.parse(f'other={tmp_path}:theirs:make')
    setting = case.Setting((8, 9), mode='training')
    with official.Remote(spec, setting, threads=1, tf32=False) as remote:
        assert remote.parameters == 20
        assert remote.seconds() > 0
    wrong = spec._replace(function='torch')
    with pytest.raises(TypeError, match='not callable'):
        official.Remote(wrong, setting, threads=1, tf32=False)


@pytest.mark.parametrize('text', ['name', 'name=.', 'name=.:module', 'a=/no/where:m:f'])
def test_an_official_model_that_does_not_fit(text):
    with pytest.raises(ValueError, match='--official'):
        official.Official.parse(text)


def test_a_table_with_a_model_of_another_checkout(tmp_path, capsys):
    (tmp_path / 'others.py').write_text(
        'import torch\ndef make(): return torch.nn.Conv2d(3, 5, 1)\n'
    )
    theirs = ['--official', f'other={tmp_path}:others:make', '--mode', 'training']
    assert status([*FUSION, *theirs]) == 0
    assert '| other (official) | 1 of 32x40 | 0.00 |' in capsys.readouterr().out
