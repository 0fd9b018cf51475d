"""What a fresh machine may lack for the set-up of mmssm.

Each check returns the problem and its fix in words, or None.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 13)
# Measured: 3.0 GB installed for a CPU, and 1 GB while mmcv is compiled.
CPU_GIGABYTES, GPU_GIGABYTES, TEMPORARY_GIGABYTES = 4.5, 14.0, 1.0
GIGABYTE = 1e9


def check_system(system: str) -> str | None:
    """Only Linux is supported."""
    if system == 'Linux':
        return None
    return f'The system is {system}; mmssm is set up on Linux (a container will do).'


def check_python(version: tuple[int, ...]) -> str | None:
    """The pinned packages have no builds outside OLDEST to NEWEST."""
    if OLDEST <= version[:2] <= NEWEST:
        return None
    return (
        f'Python is {version[0]}.{version[1]}; 3.{OLDEST[1]} to 3.{NEWEST[1]} are '
        'supported.\n  Fix: name another one, e.g. `make setup PYTHON=python3.11`.'
    )


def check_venv_modules(find: Callable[[str], object] = find_spec) -> str | None:
    """Some distributions ship Python without venv or ensurepip."""
    lacking = [name for name in ('venv', 'ensurepip') if find(name) is None]
    if not lacking:
        return None
    return (
        f'Python lacks {" and ".join(lacking)}, so it cannot make environments.\n'
        '  Fix: `apt-get install python3-venv`, or a Python that has them.'
    )


def check_headers(folder: Path) -> str | None:
    """mmcv is compiled against Python.h."""
    if (folder / 'Python.h').is_file():
        return None
    return (
        f"Python's headers are missing: no Python.h in {folder}.\n"
        '  Fix: `apt-get install python3-dev` or `dnf install python3-devel`.'
    )


def compilers(which: Callable[[str], str | None] = shutil.which) -> dict[str, str]:
    """CC and CXX of the first C++ compiler found; empty when there is none."""
    if 'CXX' in os.environ:
        return {'CXX': os.environ['CXX']} if which(os.environ['CXX']) else {}
    for c, cxx in (('gcc', 'g++'), ('clang', 'clang++')):
        if which(c) and which(cxx):
            return {'CC': c, 'CXX': cxx}
    return {}


def check_compiler(found: dict[str, str]) -> str | None:
    """The compiler is there and compiles C++17 with its standard library."""
    if not found:
        return (
            'No C++ compiler was found (g++, clang++, or the one that CXX names).\n'
            '  Fix: `apt-get install g++` or `dnf install gcc-c++`.'
        )
    tried = subprocess.run(
        [found['CXX'], '-std=c++17', '-fsyntax-only', '-x', 'c++', '-'],
        input='#include <vector>\nint main() { return std::vector<int>{}.size(); }\n',
        capture_output=True,
        text=True,
    )
    if tried.returncode == 0:
        return None
    last = tried.stderr.strip().split('\n')[-1]
    return (
        f'{found["CXX"]} does not compile a C++17 program: {last}\n'
        '  Fix: install a complete compiler, e.g. `apt-get install g++`.'
    )


def check_cuda_compiler(
    gpu: bool, which: Callable[[str], str | None] = shutil.which
) -> str | None:
    """With a GPU, mmcv's operators are compiled by nvcc."""
    home = os.environ.get('CUDA_HOME', '/usr/local/cuda')
    if not gpu or which('nvcc') or which(f'{home}/bin/nvcc'):
        return None
    return (
        'There is an NVIDIA GPU and no CUDA compiler (nvcc), which mmcv needs.\n'
        "  Fix: install the CUDA toolkit of torch's CUDA version and set CUDA_HOME,\n"
        '  or use the CPU only: `export CUDA_VISIBLE_DEVICES=`, then the same command.'
    )


def check_disk(
    folder: Path, gigabytes: float, usage: Callable = shutil.disk_usage
) -> str | None:
    """The space in the file system of `folder`."""
    free = usage(folder).free / GIGABYTE
    if free >= gigabytes:
        return None
    return (
        f'{free:.1f} GB are free in {folder}; the set-up needs {gigabytes:g} GB.\n'
        '  Fix: free some space there (for temporary files: set TMPDIR elsewhere).'
    )


def has_gpu() -> bool:
    """An NVIDIA GPU is present and not hidden from CUDA."""
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1')
    return Path('/dev/nvidiactl').exists() and not hidden


def used_gigabytes(folder: Path) -> float:
    """What the files of `folder` take on the disk."""
    files = (path.lstat() for path in folder.rglob('*'))
    return sum(stat.st_blocks * 512 for stat in files) / GIGABYTE


def problems(venv: Path) -> list[str]:
    """Everything that would stop the set-up of `venv` on this machine."""
    gpu = has_gpu()
    space = (GPU_GIGABYTES if gpu else CPU_GIGABYTES) - used_gigabytes(venv)
    found = [
        check_system(platform.system()),
        check_python(sys.version_info),
        check_venv_modules(),
        check_headers(Path(sysconfig.get_paths()['include'])),
        check_compiler(compilers()),
        check_cuda_compiler(gpu),
        check_disk(venv.parent, max(0, space)),
        check_disk(Path(os.environ.get('TMPDIR', '/tmp')), TEMPORARY_GIGABYTES),
    ]
    return [problem for problem in found if problem]
