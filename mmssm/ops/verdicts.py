"""What first tries of kernels found, kept for every process of a machine.

One small JSON file in Triton's cache directory, where the compiled kernels are too:
{machine and versions: {op: None or what is wrong}}.  It is an aid: a file that cannot
be read or written is as none.
"""

import hashlib
import json
import os
import sys
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch

from mmssm.ops import gpu

FILE = 'mmssm_first_tries.json'
MOST = 32  # keys, the last ones


def path() -> Path:
    """Where the file is."""
    knobs = getattr(sys.modules.get('triton'), 'knobs', None)
    if knobs is not None:
        return Path(knobs.cache.dir) / FILE
    home = Path(os.environ.get('TRITON_HOME', Path.home()))
    return Path(os.environ.get('TRITON_CACHE_DIR', home / '.triton' / 'cache')) / FILE


def key(device: torch.device) -> str | None:
    """GPU, driver, torch, Triton and the sources of the ops; None where unknown."""
    if not torch.cuda.is_available():
        return None
    driver = getattr(torch._C, '_cuda_getDriverVersion', lambda: 'unknown')()
    try:
        sources = _sources()
    except OSError:
        return None
    return (
        f'{torch.cuda.get_device_name(device)}, driver {driver}, '
        f'torch {torch.__version__}, triton {gpu.version()}, ops {sources}'
    )


def find(op: str, key: str | None) -> tuple[str | None] | None:
    """(None or what is wrong,) if the op was tried; None if not."""
    if key is None:
        return None
    tried = _read().get(key)
    if not isinstance(tried, dict) or op not in tried:
        return None
    verdict = tried[op]
    return (verdict,) if verdict is None or isinstance(verdict, str) else None


def keep(op: str, key: str | None, verdict: str | None) -> None:
    """Write the verdict to the file; of two that write at once the last one counts."""
    if key is None:
        return
    table = _read()
    tried = table.pop(key, {})
    table[key] = (tried if isinstance(tried, dict) else {}) | {op: verdict}
    table = dict(list(table.items())[-MOST:])
    target = path()
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            'w', encoding='utf-8', dir=target.parent, prefix=FILE, delete=False
        ) as file:
            temporary = file.name
            json.dump(table, file, indent=1)
        os.replace(temporary, target)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _read() -> dict:
    try:
        table = json.loads(path().read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


@lru_cache(maxsize=1)
def _sources() -> str:
    """Of all ops: kernels call each other, and are tried against other files."""
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob('*.py')):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]
