"""Two storeys: torch alone below, OpenMMLab above, and imports that point downwards."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = 'mmssm'
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmseg')


class Storey(NamedTuple):
    """What the files of a part of the package may import.

    own: parts of this package.  others: packages beside the standard library.  lazy:
    packages that are imported inside of functions only, where they are optional.
    """

    own: tuple[str, ...]
    others: tuple[str, ...] = ('torch',)
    lazy: tuple[str, ...] = ()


BELOW = ('ops', 'layers', 'weights', 'backbones')
# A part may import itself, too.  What is not listed, such as registry.py and openmmlab,
# may import anything.
STOREYS = {
    'ops': Storey((), ('torch', 'triton')),
    'layers': Storey(('ops',)),
    'weights': Storey((), lazy=('safetensors', 'gdown')),
    'backbones': Storey(('ops', 'layers', 'weights')),
    'hosts': Storey(BELOW),
    'analysis': Storey(BELOW, lazy=('numpy', 'matplotlib', 'PIL')),
    'export': Storey(BELOW, lazy=('onnx_ir', 'onnxruntime', 'onnxscript')),
    'zoo.py': Storey((*BELOW, 'hosts')),
    '__init__.py': Storey(('__version__',), ()),
    # These two run where nothing else does.
    'openmmlab/doctor': Storey((), ()),
    'openmmlab/errors.py': Storey((), ()),
    'openmmlab/cli.py': Storey(('openmmlab', 'weights'), (), ('mmengine',)),
}


def imported(path: Path) -> list[tuple[str, bool]]:
    """Full names of the modules that a file imports; whether it does so lazily.

    That is in a function, or for type checkers alone.
    """
    tree = ast.parse(path.read_text(encoding='utf-8'))
    later = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING')
    )
    inside = {id(part) for node in later for part in ast.walk(node)}
    names = []
    for node in ast.walk(tree):
        lazy = id(node) in inside
        if isinstance(node, ast.Import):
            names += [(alias.name, lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import; write the full name'
            names += [(f'{node.module}.{alias.name}', lazy) for alias in node.names]
    return names


def is_within(name: str, packages: set[str]) -> bool:
    """`name` is one of the packages or lies in one."""
    return any(
        name == package or name.startswith(f'{package}.') for package in packages
    )


def why_not(storey: Storey, part: str, name: str, lazy: bool) -> str | None:
    """Why a file of `part` may not import the name."""
    root, _, rest = name.partition('.')
    if root in sys.stdlib_module_names:
        return None
    if root == OWN:
        home = f'{OWN}.{part.removesuffix(".py").replace("/", ".")}'
        allowed = {home, *(f'{OWN}.{other}' for other in storey.own)}
        return None if is_within(name, allowed) else 'which stands above it'
    if root in storey.others or (lazy and root in storey.lazy):
        return None
    return 'outside of a function' if root in storey.lazy else 'which it may not need'


def upward_imports(package: Path) -> list[str]:
    """What stands in the files of `package` and may not."""
    wrong = []
    for part, storey in STOREYS.items():
        place = package / part
        for path in [place] if place.suffix else sorted(place.rglob('*.py')):
            for name, lazy in imported(path) if path.is_file() else ():
                reason = why_not(storey, part, name, lazy)
                if reason:
                    file = path.relative_to(package)
                    wrong.append(f'{file} imports {name}, {reason}')
    return wrong


def unlisted(package: Path) -> list[str]:
    """Parts of the package that have no storey."""
    listed = {*STOREYS, 'openmmlab', 'registry.py'}
    parts = (p for p in package.iterdir() if p.suffix == '.py' or p.is_dir())
    return sorted({p.name for p in parts} - listed - {'.mim', '__pycache__'})


def helper_folders(root: Path) -> list[str]:
    """Folders and files for everything and nothing."""
    names = {'utils', 'util', 'helpers', 'common', 'misc_utils'}
    return [
        str(path.relative_to(root))
        for part in ('mmssm', 'tools', 'tests', 'configs')
        for path in sorted((root / part).rglob('*'))
        if path.stem in names and '.mim' not in path.parts
    ]


def incomplete_ops(root: Path) -> list[str]:
    """Ops without their definition or without a test of their name."""
    wrong = []
    for op in sorted((root / 'mmssm/ops').iterdir()):
        if not (op / '__init__.py').is_file():
            continue
        if not (op / 'naive.py').is_file():
            wrong.append(f'{op.name} has no naive.py')
        if not list((root / 'tests/ops').glob(f'**/test_{op.name}*.py')):
            wrong.append(f'{op.name} has no tests/ops/test_{op.name}.py')
    return wrong


def test_imports_point_downwards():
    assert upward_imports(ROOT / OWN) == []


def test_every_part_has_its_storey():
    assert unlisted(ROOT / OWN) == []


def test_no_helper_folder():
    assert helper_folders(ROOT) == []


def test_every_op_has_its_definition_and_its_test():
    assert incomplete_ops(ROOT) == []


@pytest.mark.parametrize(
    'file, line',
    [
        ('ops/scan/naive.py', 'from mmssm.layers import DropPath'),
        ('ops/scan/naive.py', 'from mmssm import registry'),
        ('ops/scan/naive.py', 'import mmcv.ops as ops'),
        ('ops/precision.py', 'import numpy'),
        ('layers/mlp.py', 'def f():\n    from mmengine.model import BaseModule'),
        ('layers/mlp.py', 'from mmssm.backbones.vminet import VMINet'),
        ('layers/mlp.py', 'from mmssm.opsy import scan'),
        ('openmmlab/doctor/facts.py', 'import torch'),
        ('openmmlab/cli.py', 'from mmengine.config import DictAction'),
        ('backbones/swin.py', 'from mmssm.registry import MODELS'),
        ('backbones/swin.py', 'from mmssm import hosts'),
        ('weights/files.py', 'from mmssm.backbones import VMINet'),
        ('weights/files.py', 'import safetensors.torch'),
        ('weights/files.py', 'def f():\n    import numpy'),
        ('hosts/places.py', 'import timm'),
        ('hosts/places.py', 'from mmssm.analysis.flops import count_macs'),
        ('analysis/maps.py', 'import matplotlib.pyplot as plt'),
        ('analysis/maps.py', 'if TYPE_CHECKING:\n    import mmcv'),
        ('export/onnx.py', 'import onnx'),
        ('zoo.py', 'from mmssm.openmmlab.engine import running'),
        ('__init__.py', 'import torch'),
        ('backbones/swin.py', 'from mmssm.openmmlab.engine import hooks'),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, file: str, line: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'import math\n{line}\n')
    assert len(upward_imports(tmp_path)) == 1


@pytest.mark.parametrize(
    'file, line',
    [
        ('layers/mlp.py', 'import torch.nn.functional as F'),
        ('layers/mlp.py', 'from mmssm.ops import scan'),
        ('ops/scan/triton.py', 'import triton.language as tl'),
        ('backbones/swin.py', 'from mmssm.weights.files import load_file'),
        ('weights/files.py', 'def f():\n    import safetensors.torch'),
        ('analysis/maps.py', 'def f():\n    from matplotlib.figure import Figure'),
        ('analysis/maps.py', 'if TYPE_CHECKING:\n    from matplotlib import figure'),
        ('zoo.py', 'from mmssm.backbones import VMINet'),
        ('registry.py', 'from mmengine.registry import Registry'),
        ('openmmlab/engine/running.py', 'from mmengine.runner import Runner'),
    ],
)
def test_a_downward_import_is_fine(tmp_path: Path, file: str, line: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'import math\n{line}\n')
    assert upward_imports(tmp_path) == []


def test_a_new_part_is_noticed(tmp_path: Path):
    for name in ('ops', 'extras'):
        (tmp_path / name).mkdir()
    (tmp_path / 'notes.txt').touch()
    assert unlisted(tmp_path) == ['extras']


def start(*command: str) -> subprocess.CompletedProcess:
    """A Python process with this package, in its folder."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )


def run(*command: str) -> str:
    """What it prints when all goes well."""
    done = start(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_downstairs_runs_with_torch_alone():
    done = json.loads(run(str(ROOT / 'tests/torch_alone.py')))
    folders = {name.split('.')[1] for name in done['imported'] if '.' in name}
    below = {part.removesuffix('.py') for part in STOREYS if 'openmmlab' not in part}
    assert folders == below - {'__init__'}
    assert set(done['trained']) >= {
        'ConvNeXt',
        'MILA',
        'Mega',
        'SpatialMamba',
        'VMINet',
        'VMamba',
    }


def test_models_by_name_load_no_openmmlab():
    code = (
        'import sys, mmssm\n'
        "print('torch' in sys.modules)\n"
        "mmssm.create_model('vminet_ti', features_only=True)\n"
        f'print([n for n in {OPENMMLAB} if n in sys.modules])'
    )
    assert run('-c', code).splitlines() == ['False', '[]']


@pytest.mark.parametrize('name', OPENMMLAB)
def test_a_command_names_what_is_missing(name: str):
    config = 'mask-rcnn_vminet-demo_fpn_shapes.py'
    if name == 'mmseg':
        config = 'vminet-demo_upernet_shapes.py'
    code = (
        f'import sys; sys.modules[{name!r}] = None\n'
        f'from mmssm.openmmlab.cli import train; train(["configs/demo/{config}"])'
    )
    done = start('-c', code)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'mmssm-train: the module {name} is not installed')
    assert "pip install 'mmssm[onedl]'" in line


def test_helper_folders_and_incomplete_ops_are_found(tmp_path: Path):
    for folder in ('mmssm/utils', 'mmssm/ops/scan', 'tests/ops', 'tools', 'configs'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'mmssm/ops/scan/__init__.py').touch()
    assert helper_folders(tmp_path) == ['mmssm/utils']
    assert len(incomplete_ops(tmp_path)) == 2
