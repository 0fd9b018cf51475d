"""Blocks of the pages run as they stand, on data and schedules made small.

Each page is run from top to bottom in a folder of its own, as its reader would: shell
commands, Python, and configs, which are files whose name stands in the first line.
What is not run carries the reason: `<!-- not run: needs COCO -->` before the block.
tests/test_pages.py takes those apart all the same.

Pictures become 64 pixels small, a training two iterations, and weights random: data and
weights of the papers are not here.
"""

import itertools
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from pages import PAGES, ROOT, Block, blocks_of, commands_of

from mmssm.backbones import VMINet
from mmssm.export import refusal
from mmssm.openmmlab import cli
from tools.demo import data

pytestmark = pytest.mark.filterwarnings('ignore')
# pages whose blocks other tests run, and which
ELSEWHERE = {'README.md': 'tests/test_readme.py'}
# packages that are optional, and the pages that need them
OPTIONAL = {'docs/export.md': refusal.PACKAGES}
REASON = re.compile(
    r'(needs|takes|installs|starts|changes|is|sets up|part of|refers to|config) \w.*'
)
LANGUAGES = ('bash', 'python', 'text', 'bibtex', '')
SMALL = ('scale', 'scales', 'crop_size', 'size', 'img_scale')
SHORT = {
    'max_iters': 2,
    'val_interval': 2,
    'max_epochs': 1,
    'num_workers': 0,
    'persistent_workers': False,
    'interval': 1,
    # regions of interest, and the widths of heads
    'num': 16,
    'nms_pre': 50,
    'max_per_img': 10,
    'fc_out_channels': 32,
}
FEW = (1, 1, 1, 1)  # blocks
PLAIN = ('cp', 'ln', 'ls', 'mkdir')
FILE = re.compile(r'# ([\w/-]+\.py)\n')
NUMBER = itertools.count()


def of_code(page: Path) -> list[Block]:
    """The blocks to run; tests/test_pages.py builds configs that are of no file."""
    return [
        block
        for block in blocks_of(page)
        if block.language in ('bash', 'python')
        and not block.text.startswith('_base_')
        and not block.reason
    ]


def run_here(page: Path) -> bool:
    name = page.relative_to(ROOT).as_posix()
    return name not in ELSEWHERE and bool(of_code(page))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The demo's data with few pictures."""
    folder = tmp_path_factory.mktemp('made')
    data.make(folder / 'demo', 0, dict(train=4, val=2))
    return folder / 'demo'


@pytest.fixture
def workspace(made, tmp_path, monkeypatch):
    """A folder like a clone of the repository, with data and pictures."""
    for name in ('configs', 'tools'):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / 'hubconf.py', tmp_path)
    (tmp_path / 'data').mkdir()
    shutil.copytree(made, tmp_path / 'data/demo')
    pictures = sorted((made / 'shapes_coco/val').iterdir())[:2]
    (tmp_path / 'pictures').mkdir()
    for path in pictures:
        shutil.copy(path, tmp_path / 'pictures')
    shutil.copy(pictures[0], tmp_path / 'street.jpg')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Config, 'fromfile', shortening(Config.fromfile))
    monkeypatch.setitem(VMINet.zoo['ti'], 'depths', FEW)
    return tmp_path


def shortening(fromfile):
    def read(*args, **options):
        whole = fromfile(*args, **options)
        cfg = Config(shortened(whole._cfg_dict), filename=whole.filename)
        cfg.experiment_name = f'page_{next(NUMBER)}'  # what mmengine keeps is its own
        return cfg

    return read


def shortened(part, name=''):
    """A part of a config with small pictures and models, and few iterations."""
    if isinstance(part, dict):
        if name == 'init_cfg' and part.get('type') == 'Pretrained':
            return None
        cut = {key: SHORT.get(key, shortened(part[key], key)) for key in part}
        if name == 'train_dataloader':
            cut['batch_size'] = 2
        if name == 'train_cfg' and 'max_epochs' in cut:
            cut['val_interval'] = 1
        if name == 'checkpoint':
            cut['save_optimizer'] = False
        if name in ('decode_head', 'auxiliary_head'):
            cut['channels'] = 16
        if part.get('arch') == 'tiny':  # as wide, for the necks, and not as deep
            cut['arch'] = dict(channels=64, depths=FEW)
        if name == 'arch' and 'depths' in cut:
            cut['depths'] = FEW
        if name == 'visualizer':
            cut.pop('name', None)
        return ConfigDict(cut)
    if isinstance(part, list | tuple):
        if name in SMALL and all(isinstance(one, int) for one in part):
            return type(part)(64 for _ in part)
        return type(part)(shortened(one, name) for one in part)
    return part


def shorter(text: str) -> str:
    """A command or a program with the numbers that a short training has."""
    text = re.sub(r'\b(max_iters|val_interval|interval)=\d+', r'\1=2', text)
    return re.sub(r'iter_\d+\.pth', 'iter_2.pth', text)


def run(words: list[str], monkeypatch) -> None:
    """A command, in this process where it is one of ours."""
    words = [shorter(word) for word in words]
    try:
        if words[0].startswith('mmssm-'):
            name = words[0].removeprefix('mmssm-').replace('-', '_')
            getattr(cli, name)(words[1:])
        elif words[0] == 'python':
            rest = words[2:] if words[1] == '-m' else words[1:]
            rest += ['--train=4', '--val=2'] * (rest[0] == 'tools.demo.data')
            monkeypatch.setattr(sys, 'argv', rest)
            how = runpy.run_module if words[1] == '-m' else runpy.run_path
            how(rest[0], run_name='__main__')
        else:
            assert words[0] in PLAIN, words
            subprocess.run(words, check=True, timeout=60)
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f'{" ".join(words)}: {ended.code}')


@pytest.mark.parametrize(
    'page',
    [page for page in PAGES if run_here(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_page_runs_from_top_to_bottom(page, workspace, monkeypatch):
    for package in OPTIONAL.get(page.relative_to(ROOT).as_posix(), ()):
        pytest.importorskip(package)
    names, variables = {'__name__': 'page'}, {}
    for block in of_code(page):
        file = FILE.match(block.text)
        if block.language == 'bash':
            for words in commands_of(block.text, variables):
                run(words, monkeypatch)
        elif file:
            (workspace / file[1]).parent.mkdir(parents=True, exist_ok=True)
            (workspace / file[1]).write_text(block.text)
        else:
            exec(compile(shorter(block.text), block.place, 'exec'), names)


def test_every_block_is_run_or_says_why_not():
    for page in PAGES:
        for block in blocks_of(page):
            ours = re.search(r'^(mmssm-|python |pip |make )', block.text, re.M)
            assert block.language or not ours, f'{block.place}: a block of which kind?'
            assert block.language in LANGUAGES, f'{block.place}: would not be run'
            if block.reason:
                assert REASON.fullmatch(block.reason), (block.place, block.reason)
                for test in re.findall(r'tests/[\w/]+\.py', block.reason):
                    assert (ROOT / test).is_file(), (block.place, test)
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())


def test_files_that_a_page_makes_are_used():
    for page in (page for page in PAGES if run_here(page)):
        text = page.read_text()
        for block in (b for b in of_code(page) if b.language == 'python'):
            file = FILE.match(block.text)
            assert not file or text.count(Path(file[1]).stem) > 1, block.place
