"""Small mistakes put into the package, one at a time; the tests have to turn red.

A mutant is run against the test files that are named like its file or mention it, the
closest first, then against those of its folder.  What those leave alive, in the time
that they have, survived.
"""

import ast
import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tools.reliability.check import Check, Clock, Outcome

ROOT = Path(__file__).resolve().parents[2]
MOST = 100
SECONDS = 150.0  # for the tests of a mutant
HANGS = 100  # seconds of one test, after which it is red
PRELOADED = (
    'torch',
    'numpy',
    'pytest',
    'mmengine.runner',
    'mmdet.models',
    'mmseg.models',
)
COPIED = ('mmssm', 'tests', 'tools', 'configs', 'docs', 'requirements')
# Whose mistakes tests cannot see: what runs on a GPU alone, and words for people
LEFT_OUT = ('ops/gpu.py', 'ops/verdicts.py')
# Whose tests skip without a package
NEEDING = {'openmmlab/classifying.py': 'mmpretrain'}
SWAPS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ('<', '<='),
    ast.LtE: ('<=', '<'),
    ast.Gt: ('>', '>='),
    ast.GtE: ('>=', '>'),
    ast.Eq: ('==', '!='),
    ast.NotEq: ('!=', '=='),
    ast.Is: ('is', 'is not'),
    ast.IsNot: ('is not', 'is'),
    ast.In: ('in', 'not in'),
    ast.NotIn: ('not in', 'in'),
    ast.Add: ('+', '-'),
    ast.Sub: ('-', '+'),
    ast.Mult: ('*', '/'),
    ast.FloorDiv: ('//', '*'),
    ast.And: ('and', 'or'),
    ast.Or: ('or', 'and'),
}


class Mutant(NamedTuple):
    """A place in a file, in bytes, and what stands there instead."""

    file: str
    line: int
    start: int
    end: int
    new: str
    old: str

    def __str__(self) -> str:
        return f'{self.file}:{self.line}: {self.old!r} -> {self.new!r}'

    def applied(self, text: bytes) -> bytes:
        """The file's bytes with the mistake."""
        return text[: self.start] + self.new.encode() + text[self.end :]


def checks() -> list[Check]:
    """One, of as many mutants as time allows."""
    return [Check('Tests', 'mutants killed', run, MOST)]


def run(clock: Clock, seed: int, most: int = MOST) -> Outcome:
    """Each folder of the package has its share."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([*PRELOADED, __name__])
    survivors, tried = [], 0
    with tempfile.TemporaryDirectory() as name:
        tree = copied(Path(name))
        mutants = drawn(tree, seed)
        for _, mutant in zip(clock.counts(most), mutants, strict=False):
            path = tree / mutant.file
            good = path.read_bytes()
            path.write_bytes(mutant.applied(good))
            try:
                alive = _is_alive(context, tree, tests_of(tree, mutant.file))
            finally:
                path.write_bytes(good)
            tried += 1
            if alive:
                survivors.append(str(mutant))
            print(f'    {"SURVIVED" if alive else "killed"} {mutant}', flush=True)
    killed = tried - len(survivors)
    return Outcome(tried, survivors, f'{100 * killed / max(tried, 1):.0f} % killed')


def copied(folder: Path) -> Path:
    """What the tests need of the project, in a folder of its own."""
    ignored = shutil.ignore_patterns('__pycache__', '.mim')
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def drawn(tree: Path, seed: int) -> Iterator[Mutant]:
    """Mutants without end, no place twice, from any folder.

    A folder is drawn by the root of its number of places: small ones have their share.
    """
    dice = random.Random(seed)
    left_out = LEFT_OUT + tuple(f for f, p in NEEDING.items() if not find_spec(p))
    rooms: dict[str, list[Mutant]] = {}
    for path in sorted((tree / 'mmssm').rglob('*.py')):
        file = str(path.relative_to(tree))
        if not file.endswith(left_out):
            room = str(Path(file).parent)
            rooms.setdefault(room, []).extend(places(file, path.read_bytes()))
    weights = {room: len(found) ** 0.5 for room, found in rooms.items()}
    while any(rooms.values()):
        left = [room for room, found in rooms.items() if found]
        (room,) = dice.choices(left, [weights[room] for room in left])
        yield rooms[room].pop(dice.randrange(len(rooms[room])))


def places(file: str, text: bytes) -> list[Mutant]:
    """Every mistake that can be made in a file; none in strings and annotations."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def mutant(node: ast.AST, new: str) -> Mutant:
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        return Mutant(file, node.lineno, start, end, new, text[start:end].decode())

    found = []
    for node in _code(ast.parse(text)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            found += _between(
                file, text, starts, node.left, node.comparators[0], node.ops[0]
            )
        elif isinstance(node, ast.BinOp):
            found += _between(file, text, starts, node.left, node.right, node.op)
        elif isinstance(node, ast.BoolOp):
            found += _between(file, text, starts, *node.values[:2], node.op)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            found.append(mutant(node, f'bool({ast.unparse(node.operand)})'))
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int):
            new = not node.value if isinstance(node.value, bool) else node.value + 1
            found.append(mutant(node, repr(new)))
        elif isinstance(node, ast.IfExp | ast.If):
            found.append(mutant(node.test, f'not ({ast.unparse(node.test)})'))
        elif isinstance(node, ast.Raise) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            found.append(mutant(node, 'pass'))
    return found


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that something depends on when it runs.

    Not annotations, nor `strict=True`, which guards what does not happen.
    """
    for field, value in ast.iter_fields(tree):
        guard = isinstance(tree, ast.keyword) and tree.arg == 'strict'
        if guard or field in ('annotation', 'returns'):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                yield node
                yield from _code(node)


def _between(
    file: str,
    text: bytes,
    starts: Sequence[int],
    left: ast.AST,
    right: ast.AST,
    op: ast.AST,
) -> list[Mutant]:
    """The operator that stands between two operands, exchanged."""
    old, new = SWAPS.get(type(op), (None, None))
    start = starts[left.end_lineno - 1] + left.end_col_offset
    end = starts[right.lineno - 1] + right.col_offset
    if old is None or text[start:end].count(old.encode()) != 1:
        return []
    place = start + text[start:end].index(old.encode())
    return [Mutant(file, left.end_lineno, place, place + len(old), new, old)]


# Which tests, and how they end.


def tests_of(tree: Path, file: str) -> list[str]:
    """Test files, the most promising first.

    They are named like the file, mention it, are named like what uses it, or mention
    that; then come those of its folder.  Short ones first, which are about little else.
    """
    path, home = Path(file), _home(tree, file)
    own, users = _gives(tree / file), set()
    for user in (tree / 'mmssm').rglob('*.py'):
        text = user.read_text()
        if _module(path) in text or own & _words(text):
            users.add(user)
    others = {name for user in users for name in _gives(user)}
    stems = {user.stem for user in users} - {'__init__'}
    found = []
    for test in sorted((tree / 'tests').rglob('test_*.py')):
        text = test.read_text()
        words = _words(text)
        alike = home in test.parents and (
            3 * _alike(path.stem, test.stem) + _alike(path.parent.name, test.stem)
        )
        if alike:
            rank = (0, -alike)
        elif _module(path) in text or own & words:
            rank = (1, 0)
        elif test.stem.removeprefix('test_') in stems:
            rank = (2, 0)
        elif others & words or _alike(path.parent.name, test.stem):
            rank = (3, 0)
        elif home in test.parents and home.parent != tree:
            rank = (4, 0)
        else:
            continue
        found.append((*rank, len(text), str(test.relative_to(tree))))
    return [test for *_, test in sorted(found)]


def _home(tree: Path, file: str) -> Path:
    """The folder of tests that mirrors the folder of a file, as far as there is one."""
    folder = tree / 'tests'
    for part in Path(file).parent.parts[1:]:
        if not (folder / part).is_dir():
            break
        folder = folder / part
    return folder


def _module(path: Path) -> str:
    """As it is imported."""
    parts = path.with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def _alike(name: str, test: str) -> int:
    """How many words of two names are forms of one, such as look and looking."""
    return sum(
        first.startswith(second) or second.startswith(first)
        for first in name.split('_')
        for second in test.removeprefix('test_').split('_')
        if min(len(first), len(second)) > 2
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r'\w+', text))


def _gives(path: Path) -> set[str]:
    """The functions and classes of a file whose names are no common words."""
    nodes = ast.parse(path.read_bytes()).body
    names = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return {
        name
        for name in names
        if not name.startswith('_') and ('_' in name or name[0].isupper())
    }


def _is_alive(
    context: multiprocessing.context.BaseContext, tree: Path, files: Sequence[str]
) -> bool:
    """Whether no test is red in the time; each file has a process of its own."""
    clock = Clock(SECONDS)
    for number in clock.counts(len(files)):
        process = context.Process(target=_pytest, args=(str(tree), [files[number]]))
        process.start()
        process.join(clock.left)
        if over := process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        with contextlib.suppress(ProcessLookupError):  # what it left behind
            os.killpg(process.pid, signal.SIGKILL)
        if over or process.exitcode:
            return over
    return True


class _Alarm:
    """A plugin of pytest: a test that hangs is killed with its process, in red."""

    def pytest_runtest_setup(self) -> None:
        signal.alarm(HANGS)

    def pytest_runtest_teardown(self) -> None:
        signal.alarm(0)


def _pytest(tree: str, files: list[str]) -> None:
    """Run tests of a tree, whose pyproject.toml puts its package first."""
    os.setsid()
    os.chdir(tree)
    os.environ['PYTHONPATH'] = f'{tree}{os.pathsep}{tree}/tests'
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    import pytest

    options = ['-q', '-x', '-p', 'no:cacheprovider', '-p', 'no:xdist']
    os._exit(int(pytest.main([*options, *files], plugins=[_Alarm()])))
