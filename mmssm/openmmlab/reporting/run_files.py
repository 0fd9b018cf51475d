"""What a work_dir holds: its config, its best checkpoint, its environment."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmssm.openmmlab.engine.beginning import COMMAND
from mmssm.openmmlab.errors import UserError

ENVIRONMENT = ('Python', 'PyTorch', 'GPU 0', 'CUDA_HOME', 'NVCC', 'OpenCV', 'MMEngine')
HEAD = 3000  # lines of a log in which its beginning stands


def find_config(work_dir: Path) -> Path:
    """The config of the newest start.

    Raises UserError where there is none.
    """
    found = sorted(work_dir.glob('*/vis_data/config.py'))
    found = found or sorted(work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(
            f'{work_dir} holds no config (*/vis_data/config.py or *.py); give the '
            'work_dir of a training, or --config FILE'
        )
    return found[-1]


def find_checkpoint(work_dir: Path) -> Path | None:
    """The best one, else the last one, else the newest; None: there is none."""
    by_age = sorted(work_dir.glob('*.pth'), key=lambda p: p.stat().st_mtime)
    best = [path for path in by_age if path.name.startswith('best_')]
    if best:
        return best[-1]
    last = work_dir / 'last_checkpoint'
    if last.is_file():
        written = Path(last.read_text(encoding='utf-8').strip())
        # a folder that has been moved holds it still
        for path in (work_dir / written.name, written):
            if path.is_file():
                return path
    return by_age[-1] if by_age else None


def logs(work_dir: Path) -> list[Path]:
    """The logs of all starts, in order."""
    return sorted(work_dir.glob('*/*.log'))


def environment(work_dir: Path) -> list[tuple[str, str]]:
    """Versions and devices that the newest log begins with."""
    for path in reversed(logs(work_dir)):
        found = []
        for line in _head(path):
            name, separator, value = line.strip().partition(': ')
            if separator and name in ENVIRONMENT:
                found.append((name, re.sub(r'\s+\(.*', '', value)))
        if found:
            return list(dict(found).items())
    return []


def commands(work_dir: Path) -> list[str]:
    """The command of each start, where its log has it."""
    found = []
    for path in logs(work_dir):
        for line in _head(path):
            _, there, command = line.partition(f'INFO - {COMMAND}')
            if there:
                found.append(command.strip())
                break
    return found


def _head(path: Path) -> Iterator[str]:
    with path.open(encoding='utf-8', errors='replace') as file:
        for _, line in zip(range(HEAD), file, strict=False):
            yield line
