"""Compile the kernels in many processes at once, before anything waits for them."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from mmssm.backbones.spatial_mamba import SpatialMamba, SpatialMambaBlock
from mmssm.ops import trial, verdicts
from tools.benchmarks.case import Setting, passes
from tools.benchmarks.gpu.bench import Bench
from tools.benchmarks.gpu.cases import OPS, Op, draw_map, results
from tools.benchmarks.gpu.clock import synchronize
from tools.benchmarks.gpu.facts import backend_of
from tools.benchmarks.gpu.ledger import Row, Task
from tools.benchmarks.gpu.parity import DTYPES, name_of, words_of
from tools.benchmarks.gpu.scale import FULL, TINY, Scale

PROCESSES = 14
SECONDS = 60.0
Job = tuple[str, Callable[[], object]]


def tasks(bench: Bench, seconds: float = SECONDS) -> Iterator[Task]:
    """One row about all processes; the rows of the jobs come from these."""
    run = lambda: compile_all(bench, seconds)  # noqa: E731
    yield Task('compilation', 'all', run, seconds + 15)


def jobs(device: str, scale: Scale) -> Iterator[Job]:
    """What runs once each, the most wanted first.

    Blocks as the networks have them, forward and backward, then ops as they are held
    against double and timed.
    """
    by_function = {op.function: op for op in OPS.values() if not op.absent}
    for name, op in by_function.items():
        yield f'first try of {name}', partial(backend_of, op, scale.parity[0], device)
    first, *others = widths(scale)
    for channels, images in (
        (first, scale.images),
        *((c, scale.images[:1]) for c in others),
    ):
        for size in images:
            for stage in range(4):
                sides = (-(-side // (4 << stage)) for side in (size.height, size.width))
                shape = (size.batch, channels << stage, *sides)
                name = f'block, {words_of(shape)}'
                yield name, lambda shape=shape: _block(shape, device)
    for name, op in OPS.items():
        if op.absent:
            continue
        shapes = scale.filters if name == 'ssm2d' else scale.parity
        for dtype in DTYPES:
            words = f'{name}, {name_of(dtype)}, {len(shapes)} shapes'
            yield words, lambda op=op, dtype=dtype, s=shapes: _op(op, dtype, s, device)
    for name in ('scan', 'observe', 'gated norm', 'conv + SiLU', 'x + conv'):
        if not OPS[name].absent:
            for group, shapes in scale.stages.items():
                yield (
                    f'{name}, bf16, {group}',
                    lambda op=OPS[name], s=shapes: _op(op, torch.bfloat16, s, device),
                )


def widths(scale: Scale) -> list[int]:
    """Channels of the first stages of all archs."""
    archs = (SpatialMamba.zoo.get(str(a), a) for a in scale.archs.values())
    return list(dict.fromkeys(arch['channels'] for arch in archs))


def trust() -> None:
    """Take the kernels of all ops as they are; first tries are jobs of their own."""
    trial.failure = lambda *_: None
    verdicts.keep = lambda *_: None  # nor leave word that they were tried


def _block(shape: tuple[int, int, int, int], device: str) -> None:
    trust()
    with torch.device(device):
        block = SpatialMambaBlock(shape[1])
    x = draw_map(shape, torch.bfloat16, device)
    for mode in ('inference', 'training'):
        setting = Setting(shape[2:], shape[0], mode, 'bfloat16', device)
        passes(lambda: block(x), block.parameters(), setting)()


def _op(op: Op, dtype: torch.dtype, shapes: tuple, device: str) -> None:
    trust()
    for shape in shapes:
        results(op.kernels, op.inputs(shape, dtype, device))


def compile_all(bench: Bench, seconds: float) -> Row:
    """Start the processes, wait for them, and end those that take too long."""
    tiny = bench.scale == TINY
    count = 2 if tiny else PROCESSES
    folder = Path(tempfile.mkdtemp(prefix='mmssm-warm-'))
    files = [folder / f'{i}.jsonl' for i in range(count)]
    command = [sys.executable, '-m', 'tools.benchmarks.gpu.warm']
    command += ['--device', bench.device, '--of', str(count)] + ['--tiny'] * tiny
    start = time.perf_counter()
    processes = [
        subprocess.Popen(
            [*command, '--index', str(i), '--file', str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i, file in enumerate(files)
    ]
    ended = 0
    for process in processes:
        left = seconds - (time.perf_counter() - start)
        try:
            process.wait(max(0.1, left))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended += 1
    rows = []
    for file in files:
        if file.exists():
            rows += [json.loads(line) for line in file.read_text().splitlines()]
    shutil.rmtree(folder)
    for row in rows:
        name = row.pop('name')
        bench.ledger.add('compilation', name, row.pop('status'), **row)
    return {
        's': round(time.perf_counter() - start, 1),
        'jobs done': sum('s' in row for row in rows),
        'jobs': len(list(jobs(bench.device, bench.scale))),
        'processes': count,
        'ended': ended,
        'compiled kernels': compiled_kernels(),
    }


def compiled_kernels() -> int:
    """Binaries in the cache on disk."""
    folder = os.environ.get('TRITON_CACHE_DIR')
    return len(list(Path(folder).rglob('*.cubin'))) if folder else 0


def main() -> None:
    """One process: every so-many-th job, one line in the file for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', required=True)
    parser.add_argument('--of', type=int, required=True)
    parser.add_argument('--index', type=int, required=True)
    parser.add_argument('--file', type=Path, required=True)
    parser.add_argument('--tiny', action='store_true')
    args = parser.parse_args()
    for index, (name, run) in enumerate(jobs(args.device, TINY if args.tiny else FULL)):
        if index % args.of != args.index:
            continue
        start = time.perf_counter()
        row: Row = {'name': name, 'status': 'ok'}
        try:
            run()
            synchronize(args.device)
        except Exception as error:  # noqa: BLE001 (whatever it is, the next job runs)
            row['status'], row['error'] = 'failed', f'{type(error).__name__}: {error}'
        row['s'] = round(time.perf_counter() - start, 2)
        with args.file.open('a', encoding='utf-8') as file:
            file.write(f'{json.dumps(row)}\n')


if __name__ == '__main__':
    main()
