"""The process of a run that touches the device."""

import argparse
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tools.benchmarks.gpu import facts, kernels, networks, parity, warm
from tools.benchmarks.gpu.bench import Bench
from tools.benchmarks.gpu.clock import Clock
from tools.benchmarks.gpu.ledger import FAILED, OK, SKIPPED, STARTED, Ledger, Task
from tools.benchmarks.gpu.pages import page
from tools.benchmarks.gpu.scale import FULL, TINY
from tools.benchmarks.measure import use
from tools.benchmarks.report import write_whole

BROKEN = 3  # exit status: the device answers nothing more to this process
Section = Callable[[Bench], Iterator[Task]]
# letter -> its tasks, and the share of the time after which the others go first
SECTIONS: dict[str, tuple[Section, float]] = {
    'a': (facts.tasks, 0.05),
    'b': (warm.tasks, 0.15),
    'c': (parity.tasks, 0.13),
    'd': (kernels.tasks, 0.13),
    'e': (networks.tasks, 0.30),
    'f': (networks.profile_tasks, 0.06),
    'g': (networks.growth_tasks, 0.05),
    'h': (networks.compiled_tasks, 1.0),
}


def perform(task: Task, bench: Bench) -> None:
    """Measure one row; whatever happens is written down."""
    add = bench.ledger.add
    add(task.section, task.name, STARTED, limit=max(60.0, 2 * task.seconds))
    try:
        with torch.random.fork_rng(devices=[]):
            figures = task.run()
        add(task.section, task.name, OK, **figures)
    except Exception as error:  # noqa: BLE001 (one row must not end the others)
        told = f'{type(error).__name__}: {error}'
        trace = traceback.format_exc(limit=-8)
        add(task.section, task.name, FAILED, error=told[:600], traceback=trace)
        if _is_sticky(error):
            sys.exit(BROKEN)
    finally:
        write_whole(bench.out / 'report.md', page(bench.ledger.rows()))
        networks.release()


def _is_sticky(error: Exception) -> bool:
    """Whether the device refuses everything after it."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def go(bench: Bench, letters: str, until: float, total: float) -> None:
    """Two rounds: each section within its share, then what is left of all."""
    for capped in (True, False):
        for letter in letters:
            section, share = SECTIONS[letter]
            begin, tried = time.time(), bench.ledger.tried()
            for task in section(bench):
                if task.key in tried:
                    continue
                left = until - time.time()
                spent = time.time() - begin
                if left < task.seconds:
                    _skip(bench, task, f'{left:.0f} s were left')
                elif capped and spent > share * total:
                    _skip(bench, task, f'the section took its {spent:.0f} s')
                else:
                    perform(task, bench)


def _skip(bench: Bench, task: Task, reason: str) -> None:
    bench.ledger.add(task.section, task.name, SKIPPED, error=reason)


def main() -> None:
    """Started by `tools.benchmarks.gpu_run`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--device', required=True)
    parser.add_argument('--sections', required=True)
    parser.add_argument('--until', type=float, required=True)
    parser.add_argument('--total', type=float, required=True)
    parser.add_argument('--backend')
    parser.add_argument('--tiny', action='store_true')
    args = parser.parse_args()
    # into the log: kernels that are not used say so
    warnings.filterwarnings('default', category=UserWarning)
    use(threads=1 if args.tiny else min(8, os.cpu_count() or 1))
    torch.backends.cudnn.benchmark = True
    scale = TINY if args.tiny else FULL
    bench = Bench(
        args.device,
        scale,
        Ledger(args.out / 'rows.jsonl'),
        args.out,
        Clock(args.device, scale.repeats),
        args.backend,
    )
    go(bench, args.sections, args.until, args.total)


if __name__ == '__main__':
    main()
