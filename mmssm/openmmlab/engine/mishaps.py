"""What ends a run from outside, as one line that says how to go on."""

import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

from mmssm.openmmlab.errors import UserError
from mmssm.weights import DownloadError

NO_ROOM = {errno.ENOSPC: 'no space is left', errno.EDQUOT: 'the quota is used up'}
LOCK = '.run.lock'
GONE = (
    'closed by peer',
    'Connection reset',
    'Broken pipe',
    'Socket Timeout',
    'remote process exited',
    'watchdog',
)


class PeerLost(UserError):
    """Another process of the run is gone; every process says so."""

    everybody = True


@contextmanager
def mishaps_told(resume: str | None = None) -> Iterator[None]:
    """Raise UserError for what happens to a run without a fault of the program.

    A full disk, a package that a logger needs, a port that is taken, a process of the
    run that died, weights that cannot be had.  resume: the command that goes on.
    """
    more = f'. Then go on with: {resume}' if resume else ''
    try:
        yield
    except DownloadError as error:
        raise UserError(str(error)) from error
    except ImportError as error:
        if _loggers_package(error) is None:
            raise
        raise UserError(_loggers_package(error)) from error
    except distributed.DistNetworkError as error:
        taken = 'EADDRINUSE' in str(error) or 'address already in use' in str(error)
        raise (
            UserError(_taken()) if taken else PeerLost(_lost(error, more))
        ) from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f'{NO_ROOM[error.errno]} for {error.filename or "what the run writes"}; '
            f'checkpoints that are there are whole. Make room{more}'
        ) from error
    except RuntimeError as error:
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        if not several or not any(sign in str(error) for sign in GONE):
            raise
        raise PeerLost(_lost(error, more)) from error


@contextmanager
def only_run_in(folder: str) -> Iterator[None]:
    """Hold a work_dir for one training; UserError where another holds it.

    The lock is that of the process: it goes when the process goes, however it ends,
    and processes that load data do not inherit it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = open(Path(folder, LOCK), 'a+', encoding='utf-8')  # noqa: SIM115 (below)
    except OSError as error:
        raise UserError(
            f'cannot write to the work_dir {folder}: {error.strerror}. Choose another: '
            '--work-dir FOLDER'
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise UserError(
                f'{folder} belongs to a training that is running: '
                f'{file.read().strip()}. Wait for its end, or give this one a folder '
                'of its own: --work-dir FOLDER'
            ) from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield


def _loggers_package(error: ImportError) -> str | None:
    """What to do about a logger whose package is missing; None for other errors."""
    words = str(error)
    backend = re.search(r'(\w+VisBackend)', words)
    install = re.search(r'pip install ([\w -]+\w)', words)
    if install is None:
        return None
    name = backend[1] if backend else 'a backend of the visualizer'
    return (
        f'{name} needs a package that is not installed: pip install {install[1]}, or '
        'take it out of vis_backends: --cfg-options '
        "visualizer.vis_backends=\"[{'type':'LocalVisBackend'}]\""
    )


def _taken() -> str:
    port = os.environ.get('MASTER_PORT', '29500')
    return (
        f'port {port} of {os.environ.get("MASTER_ADDR", "this machine")} is taken by '
        'another program; choose a free one, the same for all processes: '
        f'MASTER_PORT={int(port) + 1}, or PORT={int(port) + 1} with tools/dist_*.sh'
    )


def _lost(error: Exception, more: str) -> str:
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    words = str(error).splitlines()[0][:160]
    return (
        f'rank {rank} lost another process of the run, which has died ({words}){more}'
    )
