"""Make the project's virtual environment and install the pinned packages into it.

    python3 -m tools.environment.bootstrap [--stack STACK] [--torch REQUIREMENT]

The Makefile runs this before everything else.  It ends at once when the environment
is complete, resumes what was interrupted, and needs the standard library only.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tools.environment.machine import compilers, problems, used_gigabytes

ROOT = Path(__file__).resolve().parents[2]
VENVS = {'onedl': '.venv', 'openmmlab': '.venv-openmmlab'}
PRETRAIN = {'onedl': 'pretrain', 'openmmlab': 'pretrain-openmmlab'}
UNFIT = 3
# mmcv must fit this torch, and have operators for the GPU where torch sees one.
PROBE = f"""
import sys, torch, mmengine, mmcv
try:
    from mmcv.ops import get_compiling_cuda_version
except ImportError as error:
    print(error)
    sys.exit({UNFIT})
if torch.cuda.is_available() and get_compiling_cuda_version() == 'not available':
    print('mmcv was compiled without CUDA, and this machine has a GPU')
    sys.exit({UNFIT})
import mmdet, mmseg, mmssm
"""


class SetupError(Exception):
    """What stops the set-up, in words for its user."""


class Step(NamedTuple):
    """One command of the set-up."""

    title: str
    command: list[str]


class StepFailed(SetupError):
    """A step whose command failed; `log` holds its output from byte `start`."""

    def __init__(self, step: Step, status: int, log: Path, start: int) -> None:
        self.step, self.status = step, status
        with log.open('rb') as file:
            file.seek(start)
            output = file.read().decode(errors='replace')
        tail = '\n'.join(f'  | {line}' for line in output.rstrip().split('\n')[-20:])
        super().__init__(
            f'{step.title} failed (exit status {status}). The last lines of its '
            f'output:\n{tail}\nThe whole output: {log}\n{explain(output)}'
        )


# What is installed.


def requirement_files(stack: str) -> list[Path]:
    """What the environment of `stack` follows from."""
    names = ('torch', 'build', 'constraints', stack, 'dev', 'hosts', PRETRAIN[stack])
    return [ROOT / f'requirements/{name}.txt' for name in names]


def fingerprint(stack: str, torch: str) -> str:
    """Changes whenever the environment has to be brought up to date."""
    digest = hashlib.sha256(f'{sys.version} {ROOT} {stack} {torch}'.encode())
    for path in [*requirement_files(stack), ROOT / 'setup.py']:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def pinned(name: str, file: str) -> str:
    """The requirement of requirements/FILE.txt whose name ends in `name`."""
    text = (ROOT / f'requirements/{file}.txt').read_text()
    return re.search(rf'^\S*{name}==\S+$', text, re.MULTILINE).group()


def steps(stack: str, torch: str, venv: Path) -> list[Step]:
    """The commands that fill the environment, in order."""
    pip = [str(venv / 'bin/python'), '-m', 'pip', 'install']
    pip += ['-c', 'requirements/constraints.txt']
    mmcv, pretrain = pinned('mmcv', stack), pinned('mmpretrain', PRETRAIN[stack])
    headless = pinned('opencv-python-headless', 'constraints')
    return [
        # Small, so that a missing network shows at once.
        Step('build tools', [*pip, '-r', 'requirements/build.txt']),
        Step(torch, [*pip, *torch.split()]),
        Step(
            f'{mmcv} (5 to 15 minutes of compiling, unless pip has kept a build)',
            [*pip, '-v', '--no-build-isolation', mmcv],
        ),
        Step(
            'OpenMMLab, test and demo packages',
            [*pip, '-r', f'requirements/{stack}.txt', '-r', 'requirements/dev.txt'],
        ),
        # In a folder that only the tests look into: torchvision's wheel does not load
        # beside every torch, and mmengine imports what it finds.
        Step(
            'hosts of other packages, for the tests',
            [
                *(*pip, '--no-deps', '--upgrade', '--target', str(venv / 'hosts')),
                *('-r', 'requirements/hosts.txt', pretrain),
            ],
        ),
        # OpenMMLab requires opencv-python, which loads libGL; the last one owns cv2/.
        Step(
            'OpenCV for machines without a display',
            [*pip, '--force-reinstall', '--no-deps', headless],
        ),
        Step(
            'mmssm, editable',
            [*pip, '--no-deps', '--no-build-isolation', '-e', '.'],
        ),
        Step('check of the packages', [str(venv / 'bin/python'), '-c', PROBE]),
    ]


def rebuild(stack: str, venv: Path) -> Step:
    """Compile mmcv again, past the build that pip has kept for another torch."""
    mmcv = pinned('mmcv', stack)
    pip = [str(venv / 'bin/python'), '-m', 'pip', 'install', '-v', '--no-deps']
    return Step(
        f'{mmcv} again: the build that pip has kept does not fit',
        [*pip, '--force-reinstall', '--no-cache-dir', '--no-build-isolation', mmcv],
    )


# The state of the environment.


def is_healthy(venv: Path) -> bool:
    """The environment has a pip and the Python that runs this file."""
    python = venv / 'bin/python'
    if not python.exists():
        return False
    code = 'import pip, sys; print(sys.version)'
    asked = subprocess.run([python, '-c', code], capture_output=True, text=True)
    return asked.returncode == 0 and asked.stdout.strip() == sys.version.strip()


def clear(venv: Path) -> None:
    """Empty the folder, except for what this program is using."""
    for path in venv.iterdir():
        if path.name in ('.lock', 'setup.log'):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def drop_half_installed(venv: Path) -> list[str]:
    """Forget packages whose installation was cut short, so that pip redoes them.

    pip writes RECORD last, and takes a package without it for installed.
    """
    dropped = []
    for info in venv.glob('lib/python3*/site-packages/*.dist-info'):
        if not (info / 'RECORD').exists():
            shutil.rmtree(info)
            dropped.append(info.name)
    return dropped


@contextlib.contextmanager
def locked(venv: Path) -> Iterator[IO[str]]:
    """Hold the environment for one set-up at a time."""
    venv.mkdir(exist_ok=True)
    with (venv / '.lock').open('a') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'Another set-up of {venv.name} is at work; waiting.', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


# Running commands.


def clean_environment() -> dict[str, str]:
    """The environment of pip: nothing that leads it out of the virtual environment."""
    foreign = ('PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX')
    env = {k: v for k, v in os.environ.items() if k not in foreign}
    env.setdefault('MAX_JOBS', str(len(os.sched_getaffinity(0))))
    return {**env, **compilers(), 'PIP_NO_INPUT': '1', 'PYTHONUNBUFFERED': '1'}


def compiled(log: Path) -> str:
    """How far the compiler is, from the counter [12/98] that ninja writes."""
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - 65536))
        text = file.read().decode(errors='replace')
    counts = re.findall(r'^\s*\[(\d+)/(\d+)\]', text, re.MULTILINE)
    return f', {counts[-1][0]} of {counts[-1][1]} files compiled' if counts else ''


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def run(command: list[str], log: Path, lock: int, beat: float = 30.0) -> int:
    """Run a command, its output to `log`; say every `beat` seconds that it goes on.

    The command keeps the file descriptor `lock` open: should this process be killed
    alone, the next set-up waits for the command to end.
    """
    start = time.monotonic()
    with log.open('a') as output:
        output.write(f'\n$ {" ".join(command)}\n')
        output.flush()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
        )
    try:
        while True:
            try:
                return process.wait(beat)
            except subprocess.TimeoutExpired:
                passed = clock(time.monotonic() - start)
                print(f'      {passed} so far{compiled(log)}', flush=True)
    finally:
        if process.poll() is None:
            stop(process)


def stop(process: subprocess.Popen) -> None:
    """End a command with all it started; pip removes its temporary files first."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


CAUSES = (
    (
        r'NewConnectionError|ConnectTimeout|NameResolutionError|ProxyError'
        r'|Connection (refused|reset|aborted)|Network is unreachable|SSLError'
        r'|Could not fetch URL|ReadTimeoutError',
        'pip cannot reach its package index. Check the network, the proxy '
        "(HTTPS_PROXY)\nand pip's settings (`pip config list`).",
    ),
    (
        r'No space left on device|Disk quota exceeded',
        'The disk is full. Free some space, or set TMPDIR to another disk.',
    ),
    (
        r'Killed signal|fatal error: Killed|[Cc]annot allocate memory',
        'The compiler ran out of memory. Compile fewer files at a time: '
        '`MAX_JOBS=1 make setup`.',
    ),
    (
        r'No matching distribution found|Could not find a version|ResolutionImpossible',
        'pip finds no fitting package. Either its index cannot be reached (check the '
        "network\nand pip's settings, `pip config list`), or the index has none for "
        'this Python\n(another may do: `make setup PYTHON=python3.11`).',
    ),
)


def explain(output: str) -> str:
    """The likely cause of a failed command, and what to do."""
    known = (words for pattern, words in CAUSES if re.search(pattern, output))
    words = next(known, 'The lines above name the cause.')
    return f'{words}\nThen run the same command again; it goes on from here.'


def execute(todo: list[Step], log: Path, lock: int) -> None:
    """Run the steps with a line for each; raise StepFailed at the first that fails."""
    for number, step in enumerate(todo, 1):
        print(f'[{number}/{len(todo)}] {step.title}', flush=True)
        begin, size = time.monotonic(), log.stat().st_size
        status = run(step.command, log, lock)
        if status:
            raise StepFailed(step, status, log, size)
        print(f'      done in {clock(time.monotonic() - begin)}', flush=True)


# The set-up.


def fill(stack: str, torch: str, venv: Path, lock: int) -> None:
    """Make the environment, or complete it."""
    log = venv / 'setup.log'
    log.touch()
    version = '.'.join(map(str, sys.version_info[:3]))
    print(f'Setting up {venv.name}: {stack} stack, Python {version}; log: {log}')
    todo = steps(stack, torch, venv)
    if is_healthy(venv):
        for name in drop_half_installed(venv):
            print(f'      {name} is incomplete and will be installed again')
    else:
        clear(venv)
        command = [sys.executable, '-m', 'venv', str(venv)]
        todo.insert(0, Step('virtual environment', command))
    try:
        execute(todo, log, lock)
    except StepFailed as failed:
        if failed.step is not todo[-1] or failed.status != UNFIT:
            raise
        execute([rebuild(stack, venv), todo[-1]], log, lock)


def is_current(stamp: Path, wanted: str) -> bool:
    """The stamp is that of a finished set-up from the same requirements."""
    return stamp.is_file() and stamp.read_text() == wanted


def set_up(stack: str, torch: str) -> None:
    """Bring the environment of `stack` up to date; at once when it is."""
    venv = ROOT / VENVS[stack]
    stamp, wanted = venv / 'setup.stamp', fingerprint(stack, torch)
    if is_current(stamp, wanted):
        return
    stopping = problems(venv)
    if stopping:
        raise SetupError('\n'.join(['This machine is not ready:', *stopping]))
    with locked(venv) as lock:
        if is_current(stamp, wanted):
            return
        stamp.unlink(missing_ok=True)
        start = time.monotonic()
        fill(stack, torch, venv, lock.fileno())
        fresh = stamp.with_suffix('.new')
        fresh.write_text(wanted)
        os.replace(fresh, stamp)
        passed, size = clock(time.monotonic() - start), used_gigabytes(venv)
        print(f'{venv.name} is ready after {passed}; it takes {size:.1f} GB.')


def main(argv: list[str] | None = None) -> int:
    """Set up, and put what went wrong in plain words."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--stack', choices=sorted(VENVS), default='onedl')
    parser.add_argument(
        '--torch', default='', help='a requirement instead of the pinned torch'
    )
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        set_up(args.stack, args.torch or pinned('torch', 'torch'))
    except SetupError as error:
        print(f'\n{error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nInterrupted. The same command goes on from here.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
