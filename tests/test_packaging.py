"""Every kind of install holds the package, its commands and the files for mim."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import mmssm
from mmssm.openmmlab import cli

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
OFFLINE = ['--no-index', '--no-deps', '--no-build-isolation']
PACKAGED = ('configs', 'mmssm', 'requirements', 'tests', 'tools')


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def originals(root: Path) -> set[str]:
    """What .mim must hold, as paths below it."""
    files = [root / 'model-index.yml']
    files += [p for name in ('configs', 'tools') for p in (root / name).rglob('*')]
    return {
        str(p.relative_to(root)) for p in files if p.is_file() and p.suffix != '.pyc'
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the project, so that a build leaves nothing in the project."""
    copy = tmp_path / 'tree'
    ignored = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
    for name in PACKAGED:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


def wheel_of(source: Path, folder: Path) -> zipfile.ZipFile:
    run(*PIP, 'wheel', *OFFLINE, '-w', folder, source, cwd=folder.parent)
    (wheel,) = folder.glob('mmssm-*.whl')
    return zipfile.ZipFile(wheel)


def in_mim(wheel: zipfile.ZipFile) -> set[str]:
    prefix = 'mmssm/.mim/'
    return {n.removeprefix(prefix) for n in wheel.namelist() if n.startswith(prefix)}


def test_a_wheel_holds_the_configs_and_tools(tree: Path, tmp_path: Path):
    wheel = wheel_of(tree, tmp_path / 'wheels')
    assert in_mim(wheel) == originals(tree)
    parts = {'mmssm/ops/__init__.py', 'mmssm/openmmlab/doctor/facts.py'}
    assert parts <= set(wheel.namelist())
    assert not [name for name in wheel.namelist() if name.startswith('tests')]


def test_a_wheel_built_from_the_sdist_is_the_same(tree: Path, tmp_path: Path):
    direct = wheel_of(tree, tmp_path / 'wheels')
    run(sys.executable, 'setup.py', '-q', 'sdist', '-d', tmp_path, cwd=tree)
    (archive,) = tmp_path.glob('mmssm-*.tar.gz')
    with tarfile.open(archive) as packed:
        assert not [name for name in packed.getnames() if '.mim' in name]
    again = wheel_of(archive, tmp_path / 'wheels_of_sdist')
    assert sorted(again.namelist()) == sorted(direct.namelist())


def test_the_metadata(tree: Path, tmp_path: Path):
    wheel = wheel_of(tree, tmp_path / 'wheels')
    info = next(n for n in wheel.namelist() if n.endswith('/METADATA')).split('/')[0]
    metadata = Parser().parsestr(wheel.read(f'{info}/METADATA').decode())
    required = metadata.get_all('Requires-Dist')
    plain = [line for line in required if 'extra ==' not in line]
    assert sorted(line.split('>')[0] for line in plain) == ['numpy', 'torch']
    extras = ['onedl', 'openmmlab', 'dev', 'pretrain']
    extras += ['download', 'safetensors', 'onnx', 'look']
    assert metadata.get_all('Provides-Extra') == extras
    assert 'mmcv==2.1.0; extra == "openmmlab"' in required
    assert 'onedl-mmcv==2.3.6; extra == "onedl"' in required
    scripts = wheel.read(f'{info}/entry_points.txt').decode()
    for name in ('train', 'test', 'doctor'):
        assert f'mmssm-{name} = mmssm.openmmlab.cli:{name}' in scripts
    for line in scripts.strip().split('\n')[1:]:
        function = line.partition('mmssm.openmmlab.cli:')[2]
        assert callable(getattr(cli, function)), line
    namespace: dict[str, str] = {}
    line = (ROOT / 'mmssm/__init__.py').read_text().split('__version__')[1].split('\n')
    exec(f'version {line[0]}', namespace)
    assert metadata['Version'] == namespace['version']


def test_an_editable_install_links_to_the_tree(tree: Path, tmp_path: Path):
    prefix = tmp_path / 'prefix'
    # --ignore-installed: pip would otherwise remove mmssm from this environment.
    elsewhere = ['--ignore-installed', '--prefix', prefix]
    run(*PIP, 'install', *OFFLINE, *elsewhere, '-e', tree, cwd=tmp_path)
    (site,) = prefix.glob('lib/python3*/site-packages')
    code = (
        f'import site; site.addsitedir({str(site)!r})\n'
        "import importlib.util; print(importlib.util.find_spec('mmssm').origin)"
    )
    found = run(sys.executable, '-I', '-S', '-c', code, cwd=tmp_path)
    assert found.strip() == str(tree / 'mmssm/__init__.py')
    assert (prefix / 'bin/mmssm-train').is_file()
    mim = tree / 'mmssm/.mim'
    assert originals(mim) == originals(tree)
    (tree / 'configs/new.py').touch()
    assert (mim / 'configs/new.py').is_file()


def test_links_replace_whatever_stands_there(tree: Path, tmp_path: Path):
    stale = tree / 'mmssm/.mim/configs'
    stale.mkdir(parents=True)
    (stale / 'gone.py').touch()
    (tree / 'mmssm/.mim/tools').symlink_to('nowhere')
    for _ in range(2):
        run(sys.executable, 'setup.py', '--version', cwd=tree)
        assert os.readlink(stale) == '../../configs'
        assert originals(tree / 'mmssm/.mim') == originals(tree)
    assert sorted(p.name for p in stale.parent.iterdir()) == [
        'configs',
        'model-index.yml',
        'tools',
    ]


def test_a_missing_part_stops_the_build(tree: Path):
    (tree / 'model-index.yml').unlink(missing_ok=True)
    command = [sys.executable, 'setup.py', '--version']
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode != 0
    assert 'model-index.yml is missing' in done.stderr


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert cited['version'] == mmssm.__version__
    pages = (ROOT / 'README.md').read_text()
    for paper in cited['references']:
        assert paper['url'] in pages
