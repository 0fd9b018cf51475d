"""Everything worth knowing about the package on one GPU, in a fixed time.

    python -m tools.benchmarks.gpu_run --out work_dirs/gpu --minutes 8

Needs torch and Triton; timm's Swin-T and ConvNeXt-T join where timm is installed.  In
this order: a the machine, the bandwidth of a copy; b all kernels compiled by several
processes; c parity of each op with float64 in plain torch; d time of each op as a share
of that bandwidth; e whole networks beside their peers; f profiles; g growth with the
size of the images; h torch.compile.

A row is on disk before the next one starts, in rows.jsonl and report.md.  Errors become
rows.  A process that hangs, or to which the device answers no more, is ended, and
another one goes on with the next row.  What does not fit into the time is named.  A red
parity stops nothing, but marks the times of that op as WRONG.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.benchmarks.gpu.ledger import DIED, STARTED, Ledger
from tools.benchmarks.gpu.pages import page, summary
from tools.benchmarks.measure import device
from tools.benchmarks.report import write_whole

LETTERS = 'abcdefgh'
LIMIT = 60.0  # seconds without a row, before the first one


def child(args: argparse.Namespace, until: float) -> list[str]:
    """The command that does the work."""
    command = [sys.executable, '-m', 'tools.benchmarks.gpu.child']
    command += ['--out', str(args.out), '--device', args.device]
    command += ['--sections', args.sections, '--until', str(until)]
    command += ['--total', str(60 * args.minutes)]
    if args.backend:
        command += ['--backend', args.backend]
    return command + ['--tiny'] * args.tiny


def watch(process: subprocess.Popen, ledger: Ledger, until: float) -> str:
    """Wait for the process, ending it when a row takes too long; how it ended."""
    begun = time.time()
    while process.poll() is None:
        time.sleep(0.5)
        now = time.time()
        rows = ledger.rows()
        running = [row for row in rows if row['status'] == STARTED]
        touched = ledger.file.stat().st_mtime if ledger.file.exists() else begun
        limit = max([LIMIT, *(float(row.get('limit', 0)) for row in running)])
        late = 'the time is up' if now > until + 10 else ''
        if not late and now - max(touched, begun) > limit:
            late = f'no answer within {limit:.0f} s'
        if late:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.wait()
            return late
    return '' if process.returncode == 0 else f'exit status {process.returncode}'


def measure(args: argparse.Namespace, ledger: Ledger, until: float) -> None:
    """Processes one after the other until one has nothing left to do."""
    environment = dict(os.environ, PYTHONUNBUFFERED='1')
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get('PYTHONPATH')
    environment['PYTHONPATH'] = os.pathsep.join([root, path] if path else [root])
    for attempt in range(6):
        if time.time() > until:
            return
        before = len(ledger.rows())
        with (args.out / 'log.txt').open('a', encoding='utf-8') as log:
            process = subprocess.Popen(
                child(args, until),
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            ended = watch(process, ledger, until)
        for row in ledger.rows():
            if row['status'] == STARTED:
                ledger.add(row['section'], row['name'], DIED, error=ended)
        if not ended or (attempt > 1 and len(ledger.rows()) == before):
            return


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--out', type=Path, required=True, help='folder, made where it is missing')
    add('--minutes', type=float, default=8)
    add('--sections', default=LETTERS, help=f'letters of {LETTERS}, in any order')
    add('--device', type=device, default='cuda')
    add('--backend', choices=('plain',), help='SpatialMamba-T in plain torch too')
    add('--tiny', action='store_true', help='sizes of a test')
    args = parser.parse_args(arguments)
    args.sections = args.sections.replace(',', '')
    unknown = set(args.sections) - set(LETTERS)
    if unknown:
        parser.error(f'--sections has {sorted(unknown)}; expected some of {LETTERS}')
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    args = parse(arguments)
    until = time.time() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(args.out / 'rows.jsonl')
    if ledger.file.exists():
        sys.exit(f'{ledger.file} exists; give --out an empty folder')
    with tempfile.TemporaryDirectory(prefix='mmssm-triton-') as cache:
        os.environ.setdefault('TRITON_CACHE_DIR', cache)
        try:
            measure(args, ledger, until)
        finally:
            rows = ledger.rows()
            write_whole(args.out / 'report.md', page(rows))
            print(summary(rows), flush=True)


if __name__ == '__main__':
    main()
