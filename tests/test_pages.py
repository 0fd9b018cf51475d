"""Every command and every Python block of the pages is one that works.

A command is taken apart by its own parser, with its own flags, and stops there: what
it does behind that has tests of its own, and needs data, a network, GPUs or hours.
Scripts are run, with `python` and `srun` replaced by what prints its arguments.
"""

import argparse
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from pages import PAGES, ROOT, blocks, commands_of

import mmssm
from mmssm.openmmlab import cli

# commands that a test leaves alone, and why
NOT_RUN = {
    'make': 'sets up the environment of the tests; test_readme has its targets',
    'pip': 'installs from the network; test_packaging has the extras',
    'mmssm-doctor': 'takes no arguments; tests/openmmlab/test_doctor.py runs it',
    'git': 'changes the repository',
    'source': 'changes the shell',
    'mkdir': 'makes folders for data',
}
# Python blocks that are parts of programs, and where the whole is tested
PARTS = {
    'add_ssm2d(swin, modules=': 'tests/hosts/test_named.py',
    'import timm': 'tests/hosts/test_add_ssm2d.py',
}
HOSTS = {
    'my_mask_rcnn_config': "type='mmdet.ResNet', depth=50",
    'my_mask_rcnn_swin_config': "type='mmdet.SwinTransformer'",
}


class Parsed(Exception):  # noqa: N818 (no error: the end of what is tried)
    pass


def commands():
    """Pairs (page, words), with the variables of a page and placeholders filled in."""
    of_pages = {page: {} for page in PAGES}
    for block in blocks('bash'):
        for words in commands_of(block.text, of_pages[block.page]):
            yield block.page, [filled(word, block.page) for word in words]


def filled(word, page):
    config = next(page.parent.glob('*_*.py'), 'CONFIG')
    return {'CONFIG': str(config), 'BANDWIDTH': '4e9'}.get(word, word)


def pythons():
    return ((block.page, block.text) for block in blocks('python'))


def name_of(value):
    return ' '.join(map(str, value))[:60] if isinstance(value, list) else value.name


@pytest.fixture
def parsing(monkeypatch):
    """End every command when it has taken its arguments apart."""
    plain = argparse.ArgumentParser.parse_args

    def parse_args(self, *args, **options):
        raise Parsed(plain(self, *args, **options))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
    monkeypatch.chdir(ROOT)
    return monkeypatch


def parse(words, parsing):
    """The arguments of a command of the package, a script or a module of tools."""
    if words[0].startswith('mmssm-'):
        command = getattr(cli, words[0].removeprefix('mmssm-').replace('-', '_'))
        with pytest.raises(Parsed) as parsed:
            command(words[1:])
        return parsed.value.args[0]
    assert words[0] == 'python', words
    rest = [word for word in words[1:] if word != '-u']
    module = rest.pop(0) if rest[0] == '-m' else None
    parsing.setattr(sys, 'argv', rest)
    how = runpy.run_module if module else runpy.run_path
    with pytest.raises(Parsed) as parsed:
        how(rest[0], run_name='__main__')
    return parsed.value.args[0]


@pytest.mark.parametrize(('page', 'words'), commands(), ids=name_of)
def test_commands(page, words, parsing, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)  # pages are for all
    if words[0] in NOT_RUN:
        pytest.skip(NOT_RUN[words[0]])
    if words[0].endswith('.sh'):
        words = of_script(words, tmp_path)
    if '--help' in words:
        done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, timeout=60)
        assert done.returncode == 0
        return
    args = parse(words, parsing)
    config = getattr(args, 'config', None)
    if config not in (None, 'CONFIG', *mmssm.list_models()) and not is_own(config):
        assert Path(config).is_file(), config
        Config.fromfile(config)


def is_own(config):
    """Whether the user writes it, as a page shows; test_snippets runs it."""
    marks = {f'# {config}', f'`{config}`'}
    return config.startswith('my_') and any(
        mark in page.read_text() for page in PAGES for mark in marks
    )


def of_script(words, folder):
    """The command that a script of tools runs in the end."""
    for name in ('python', 'srun'):
        (folder / name).write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ['bash', *words],
        cwd=ROOT,
        env=dict(PATH=f'{folder}:/usr/bin:/bin'),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    tool = next(i for i, line in enumerate(lines) if re.search(r'/t\w+\.py$', line))
    return ['python', *lines[tool:]]


@pytest.mark.parametrize(('page', 'text'), pythons(), ids=lambda v: str(v)[-20:])
def test_python(page, text, tmp_path):
    reason = next((why for start, why in PARTS.items() if start in text), None)
    if reason:
        assert (ROOT / reason).is_file()
        pytest.skip(f'part of a program; see {reason}')
    base = re.search(r"^_base_ = '\./(\w.*)\.py'", text)
    if base is None:
        code = compile(text, str(page), 'exec')
        assert code
        return  # test_readme runs those of README, which are all there are
    if base[1] in HOSTS:
        backbone = f'dict({HOSTS[base[1]]})'
        body = f'model = dict(backbone={backbone}, neck=dict(in_channels=[1]))\n'
        (tmp_path / f'{base[1]}.py').write_text(body)
        place = str(tmp_path / f'{base[1]}.py')
    else:
        place = str(page.parent / f'{base[1]}.py')
    (tmp_path / 'own.py').write_text(text.replace(base[0], f'_base_ = {place!r}'))
    cfg = Config.fromfile(tmp_path / 'own.py')
    backbone = dict(cfg.model.backbone, init_cfg=None)
    if 'host' in backbone:
        backbone['host'] = dict(backbone['host'], init_cfg=None)
        del backbone['init_cfg']
    with DefaultScope.overwrite_default_scope('mmdet'):
        built = MODELS.build(backbone)
    assert next(built.parameters()).requires_grad


def inline():
    """Pairs (page, code) of what stands in the text between backticks."""
    for page in PAGES:
        text = re.sub(r'^ *```.*?^ *```$', '', page.read_text(), flags=re.S | re.M)
        yield from ((page, code) for code in re.findall(r'`([^`\n]+)`', text))


def test_flags_and_commands_in_the_text_exist():
    sources = [path.read_text() for path in (ROOT / 'mmssm').rglob('*.py')]
    sources += [path.read_text() for path in (ROOT / 'tools').rglob('*.py')]
    known = set(re.findall(r"'(--[a-z][\w-]*)'", '\n'.join(sources))) | {'--help'}
    for page, code in inline():
        flags = re.findall(r'(?<!\S)(--[a-z][\w-]*)', code)
        ours = code.startswith(('--', 'mmssm-', 'python '))
        assert not ours or known.issuperset(flags), (page.name, code)
        for name in re.findall(r'^mmssm-([a-z][a-z-]*)', code):
            assert hasattr(cli, name.replace('-', '_')), (page.name, code)


def test_nothing_is_left_alone_for_nothing():
    first = {words[0] for _, words in commands()}
    assert first <= {*NOT_RUN, 'python'} | {
        word for word in first if word.startswith('mmssm-') or word.endswith('.sh')
    }
    assert len(first - NOT_RUN.keys()) >= 8
    texts = [text for _, text in pythons()]
    assert all(any(start in text for text in texts) for start in PARTS)
