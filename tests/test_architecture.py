"""Imports point downwards, and every op has its definition and its test."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = 'mmssm'
# Folder of the package -> what of the package and beside it may be imported.
LAYERS = {
    'ops': {'mmssm.ops', 'torch', 'triton'},
    'layers': {'mmssm.layers', 'mmssm.ops', 'torch'},
    # Reports on environments in which nothing else imports.
    'doctor': {'mmssm.openmmlab.doctor'},
}
# Modules above the backbones, which the backbones must not know.
UPPER = {'mmssm.openmmlab.cli', 'mmssm.openmmlab.engine', 'mmssm.openmmlab.doctor'}


def imported(path: Path) -> list[str]:
    """The full names of the modules that a file imports anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import; write the full name'
            names += [f'{node.module}.{alias.name}' for alias in node.names]
    return names


def is_within(name: str, packages: set[str]) -> bool:
    """`name` is one of the packages or lies in one."""
    return any(
        name == package or name.startswith(f'{package}.') for package in packages
    )


def upward_imports(package: Path) -> list[str]:
    """What stands in the files of `package` and may not."""
    wrong = []
    for folder, allowed in LAYERS.items():
        for path in sorted((package / folder).rglob('*.py')):
            for name in imported(path):
                standard = name.split('.')[0] in sys.stdlib_module_names
                if not standard and not is_within(name, allowed):
                    wrong.append(f'{path.relative_to(package)} imports {name}')
    for path in sorted((package / 'backbones').rglob('*.py')):
        for name in imported(path):
            if is_within(name, UPPER):
                wrong.append(f'{path.relative_to(package)} imports {name}')
    return wrong


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
        ('doctor/facts.py', 'import torch'),
        ('backbones/swin.py', 'from mmssm.openmmlab.engine import hooks'),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, file: str, line: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f'import math\n{line}\n')
    assert len(upward_imports(tmp_path)) == 1


def test_a_downward_import_is_fine(tmp_path: Path):
    path = tmp_path / 'layers/mlp.py'
    path.parent.mkdir()
    path.write_text('import torch.nn.functional as F\nfrom mmssm.ops import scan\n')
    assert upward_imports(tmp_path) == []


def test_helper_folders_and_incomplete_ops_are_found(tmp_path: Path):
    for folder in ('mmssm/utils', 'mmssm/ops/scan', 'tests/ops', 'tools', 'configs'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'mmssm/ops/scan/__init__.py').touch()
    assert helper_folders(tmp_path) == ['mmssm/utils']
    assert len(incomplete_ops(tmp_path)) == 2
