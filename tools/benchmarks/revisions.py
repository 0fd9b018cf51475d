"""The same cases at another commit, in turns with this one."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.benchmarks.report import Row, from_json

SUITE = Path(__file__).resolve().parents[2]  # where `tools` is found
ROOT = SUITE  # of the checkout whose commits are compared


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The files of a revision, in a temporary worktree.

    Raises ValueError for a revision that git does not know.
    """
    git = ['git', '-C', str(ROOT)]
    with tempfile.TemporaryDirectory(prefix='mmssm-base-') as folder:
        tree = Path(folder, 'tree')
        add = [*git, 'worktree', 'add', '--detach', str(tree), revision]
        added = subprocess.run(add, capture_output=True, text=True)
        if added.returncode:
            raise ValueError(f'--base {revision}: {added.stderr.strip()}')
        try:
            yield tree
        finally:
            remove = [*git, 'worktree', 'remove', '--force', str(tree)]
            subprocess.run(remove, check=True, capture_output=True)


def in_turns(arguments: Sequence[str], base: Path, rounds: int) -> list[Row]:
    """Rows of the working tree with the times of the base beside.

    arguments: of the suite, without those that write or compare.  Each round is a fresh
    process of either, so that neither profits from the other's place in time.
    """
    ours: dict[tuple[str, str, str], Row] = {}
    for _ in range(rounds):
        theirs = _rows(arguments, base)
        for row in _rows(arguments, ROOT):
            key = (row.case, row.size, row.mode)
            other = next(r for r in theirs if (r.case, r.size, r.mode) == key)
            before = ours.get(key) or row._replace(seconds=[], base_seconds=[])
            ours[key] = before._replace(
                seconds=before.seconds + row.seconds,
                base_seconds=before.base_seconds + other.seconds,
            )
    return list(ours.values())


def _rows(arguments: Sequence[str], tree: Path) -> list[Row]:
    """What this suite measures with the package of a tree, and nothing else of it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'mmssm').symlink_to(Path(tree, 'mmssm'), target_is_directory=True)
        results = Path(folder, 'results.json')
        command = [sys.executable, '-m', 'tools.benchmarks.run', *arguments]
        path = [folder, str(SUITE), os.environ.get('PYTHONPATH', '')]
        ran = subprocess.run(
            [*command, '--json', str(results)],
            cwd=folder,  # `-m` puts it in front
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, path))},
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise ValueError(
                f'the suite failed with the package of {tree}:\n{ran.stdout[-2000:]}'
                f'{ran.stderr[-2000:]}'
            )
        return from_json(results.read_text(encoding='utf-8'))
