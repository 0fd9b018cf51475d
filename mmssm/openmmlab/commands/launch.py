"""Several processes of a tool on each of one or more machines: torchrun, in words.

    python -m mmssm.openmmlab.commands.launch PROCESSES SCRIPT [arguments]

What tools/dist_train.sh and tools/dist_test.sh run.  Variables: NNODES (1), NODE_RANK
(0), MASTER_ADDR (127.0.0.1) and PORT; one machine takes a port that is free, several
need one that all are told.  While other machines are waited for, a line every few
seconds says for which.  SIGUSR1 is handed on as SIGTERM, which the processes answer by
saving; how a process ended is said in one line, with the command that goes on.
"""

import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, NoReturn

from torch.distributed import DistError, TCPStore, run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

SAVING = 600  # seconds that processes have to save themselves after a signal
ARRIVED = 'mmssm/node/'  # keys by which machines that wait know of each other


class Nodes(NamedTuple):
    """The machines of a run, and which of them this is."""

    count: int
    rank: int
    address: str
    port: int


def main(argv: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    processes, script, *arguments = sys.argv[1:] if argv is None else argv
    nodes = read_nodes(dict(os.environ))
    options = [
        f'--nnodes={nodes.count}',
        f'--node-rank={nodes.rank}',
        f'--master-addr={nodes.address}',
        f'--master-port={nodes.port}',
        f'--nproc-per-node={processes}',
    ]
    parser = run.get_args_parser()
    if '--shutdown-timeout' in parser.format_help():
        options.append(f'--shutdown-timeout={SAVING}')
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with waiting_told(nodes):
            run.run(parser.parse_args([*options, script, *arguments]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        again = resume_line(Path(script).stem, processes, arguments)
        stop(how_it_ended(failure.local_rank, failure.exitcode, again), 1)
    except SignalException as error:
        stop('', 128 + error.sigval)


def read_nodes(variables: dict[str, str]) -> Nodes:
    """The machines as the variables have them; ends where they do not fit together."""
    count, rank = (
        int(variables.get(name) or default)
        for name, default in (('NNODES', 1), ('NODE_RANK', 0))
    )
    port, address = variables.get('PORT'), variables.get('MASTER_ADDR') or '127.0.0.1'
    if not 0 <= rank < count:
        stop(f'NODE_RANK is {rank}; expected 0 to {count - 1} with NNODES={count}', 2)
    if count > 1 and not port:
        stop(f'NNODES={count} needs a PORT that all are told, such as PORT=29500', 2)
    if count > 1 and 'MASTER_ADDR' not in variables:
        stop(f'NNODES={count} needs MASTER_ADDR, the address of node 0', 2)
    if rank == 0 and port and not is_free(int(port)):
        stop(
            f'port {port} of this machine is taken; choose another: PORT='
            f'{free_port()}' + (', on every node' if count > 1 else ''),
            1,
        )
    return Nodes(count, rank, address, int(port) if port else free_port())


def is_free(port: int) -> bool:
    """Whether a server can be opened on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]


@contextmanager
def waiting_told(nodes: Nodes, every: float = 5.0) -> Iterator[None]:
    """Say every few seconds for which machines this one waits, until all are here."""
    done = threading.Event()

    def tell() -> None:
        begun = time.monotonic()
        while not done.wait(every) and not has_children():
            seconds = f'{time.monotonic() - begun:.0f} s'
            place = f'{nodes.address}:{nodes.port}'
            print(
                f'node {nodes.rank} of {nodes.count} has waited {seconds} at {place} '
                f'for {whom(nodes)}',
                file=sys.stderr,
                flush=True,
            )

    if nodes.count > 1:
        threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def whom(nodes: Nodes) -> str:
    """For which machines this one waits, and tell the others that it is here."""
    try:
        with socket.create_connection((nodes.address, nodes.port), timeout=2):
            pass
        limit = timedelta(seconds=2)
        store = TCPStore(nodes.address, nodes.port, None, False, limit, False)
        store.set(f'{ARRIVED}{nodes.rank}', 'here')
        absent = [n for n in range(nodes.count) if not store.check([f'{ARRIVED}{n}'])]
    except (OSError, DistError):
        return 'node 0, which does not answer'
    names = ', '.join(map(str, absent[:8])) + (', …' if len(absent) > 8 else '')
    return f'{len(absent)} of them: {names}' if absent else 'the others to begin'


def has_children() -> bool:
    """Whether this process has started others."""
    lists = Path('/proc/self/task').glob('*/children')
    return any(path.read_text().strip() for path in lists)


def resume_line(tool: str, processes: str, arguments: Sequence[str]) -> str:
    """The command that goes on with a training; nothing for a test."""
    if tool != 'train':
        return ''
    config, *rest = [a for a in arguments if a not in ('--launcher', 'pytorch')]
    if '--resume' not in rest:
        rest.insert(0, '--resume')
    command = shlex.join(['tools/dist_train.sh', config, processes, *rest])
    return f'. Go on with: {command}'


def how_it_ended(rank: int, status: int, again: str) -> str:
    """A line on the first process that failed; nothing where it has said all itself."""
    if status >= 0:
        return ''
    number = -status
    name = signal.Signals(number).name
    why = ', which the kernel sends when memory is used up' if number == 9 else ''
    return f'process {rank} of this machine was ended by {name}{why}{again}'


def stop(text: str, status: int) -> NoReturn:
    if text:
        print(f'{Path(sys.argv[0]).stem}: {text}', file=sys.stderr, flush=True)
    sys.exit(status)


if __name__ == '__main__':
    main()
