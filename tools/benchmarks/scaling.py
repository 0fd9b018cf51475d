"""Data-parallel training: throughput of several gloo processes against one.

    python -m tools.benchmarks.scaling
    python -m tools.benchmarks.scaling --arch tiny --size 224x224 --batch 4
    python -m tools.benchmarks.scaling --table 8 64 256 --bandwidth 20e9 --device cuda
    python -m tools.benchmarks.scaling --unused 'detectors/*' 'segmentors/*'

Every process has one thread and a batch of its own; gradients are averaged in buckets
while the backward pass goes on, with find_unused_parameters=False.  The time of a step
is the one on the clock of the slowest process, the least of all repeats; scaling is the
number of images per second over that of one process alone.

--table computes instead: the time that gradients take on more machines than there are,
2 (p - 1) / p of their bytes over --bandwidth, the bytes per second that each process
sends, next to a step that is measured here, or was measured elsewhere (--step,
--backward).

--unused runs a training step of whole models of configs/ and names the parameters that
get no gradient, which data parallelism would wait for.
"""

import argparse
import math
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mmssm.backbones import SpatialMamba
from tools.benchmarks.case import Setting, select
from tools.benchmarks.measure import device, machine, size_of, use
from tools.benchmarks.report import insert, write_whole
from tools.benchmarks.suite import registry


class Seconds(NamedTuple):
    """Of a training step, and of the backward pass in it."""

    step: float
    backward: float


def build(args: argparse.Namespace) -> nn.Module:
    """The backbone that is trained."""
    torch.manual_seed(0)
    return SpatialMamba(args.arch).to(args.device)


def train(model: nn.Module, args: argparse.Namespace) -> list[Seconds]:
    """Steps on random images, after one that does not count.

    The loss is the mean square of the maps.
    """
    kind = torch.device(args.device).type
    synchronize = torch.cuda.synchronize if kind == 'cuda' else lambda: None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(args.batch, 3, *size_of(args.size), device=args.device)
    taken = []
    for _ in range(args.repeats + 1):
        if distributed.is_initialized():
            distributed.barrier()
        synchronize()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=args.amp):
            loss = sum(y.float().square().mean() for y in model(images))
        synchronize()
        middle = time.perf_counter()
        loss.backward()
        synchronize()
        behind = time.perf_counter()
        optimizer.step()
        synchronize()
        taken.append(Seconds(time.perf_counter() - start, behind - middle))
    return taken[1:]


def exchange(model: nn.Module, repeats: int) -> float:
    """Least seconds of averaging gradients of the model without anything beside."""
    gradients = torch.zeros(sum(p.numel() for p in model.parameters()))
    least = math.inf
    for _ in range(repeats + 1):
        distributed.barrier()
        start = time.perf_counter()
        distributed.all_reduce(gradients)
        least = min(least, time.perf_counter() - start)
    return least


def worker(
    rank: int, processes: int, port: int, args: argparse.Namespace, folder: str
) -> None:
    """One process; writes the seconds of its exchange and of its steps to a file."""
    use(threads=1)
    address = f'tcp://127.0.0.1:{port}'
    distributed.init_process_group(
        'gloo', init_method=address, rank=rank, world_size=processes
    )
    plain = build(args)
    alone = exchange(plain, args.repeats)
    model = DistributedDataParallel(plain, bucket_cap_mb=args.bucket)
    taken = [step.step for step in train(model, args)]
    write_whole(Path(folder, str(rank)), ' '.join(map(repr, [alone, *taken])))
    distributed.barrier()
    del model
    distributed.destroy_process_group()


def together(processes: int, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds of an exchange and of a step, the slowest process counting."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            partial(worker, processes=processes, port=port, args=args, folder=folder),
            nprocs=processes,
            start_method='spawn',
        )
        texts = [Path(folder, str(rank)).read_text() for rank in range(processes)]
    by_process = [list(map(float, text.split())) for text in texts]
    exchanged, *steps = map(max, zip(*by_process, strict=True))
    return exchanged, min(steps)


def alone(args: argparse.Namespace) -> Seconds:
    """Of one process without data parallelism."""
    use(threads=1)
    return min(train(build(args), args))


def measure(args: argparse.Namespace) -> list[str]:
    """Lines about one process and several, in turns."""
    one, several, exchanged = Seconds(math.inf, math.inf), math.inf, math.inf
    for _ in range(args.rounds):
        one = min(one, alone(args))
        exchange_of_round, step = together(args.processes, args)
        several, exchanged = min(several, step), min(exchanged, exchange_of_round)
    lines = [
        f'Spatial-Mamba {args.arch}, {args.size}, batch {args.batch} each; the step of '
        f'one process takes {one.step:.3f} s, its backward pass {one.backward:.3f} s, '
        f'averaging {4e-6 * parameters_of(args):.0f} MB of gradients with nothing '
        f'beside {exchanged:.3f} s.',
        '',
        '| processes | step, ms | images/s | times one |',
        '| ---: | ---: | ---: | ---: |',
    ]
    for processes, seconds in ((1, one.step), (args.processes, several)):
        rate = processes * args.batch / seconds
        times = processes * one.step / seconds
        lines.append(
            f'| {processes} | {1e3 * seconds:.0f} | {rate:.2f} | {times:.2f} |'
        )
    return lines


def parameters_of(args: argparse.Namespace) -> int:
    """Of the whole model that --parameters gives, else of the backbone."""
    return int(args.parameters or sum(p.numel() for p in build(args).parameters()))


def sent_bytes(parameters: int, processes: int) -> float:
    """By each process, when a ring averages float32 gradients."""
    return 2 * (processes - 1) / processes * 4 * parameters


def table(
    parameters: int, counts: Sequence[int], one: Seconds, bandwidth: float
) -> list[str]:
    """Lines of Markdown: communication against compute.

    Efficiency is the time of a step without communication over that with it: at worst,
    where it waits for the backward pass; at best, where all goes on beside that.
    """
    lines = [
        '| GPUs | MB sent by each | communication, ms | step, ms | worst | best |',
        '| ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for count in counts:
        sent = sent_bytes(parameters, count)
        seconds = sent / bandwidth
        worst = one.step / (one.step + seconds)
        best = one.step / (one.step + max(0.0, seconds - one.backward))
        lines.append(
            f'| {count} | {sent / 1e6:.1f} | {1e3 * seconds:.2f} '
            f'| {1e3 * one.step:.0f} | {100 * worst:.1f} % | {100 * best:.1f} % |'
        )
    return lines


def unused_parameters(name: str, size: tuple[int, int] = (64, 96)) -> list[str]:
    """Those of a case that a training step leaves without a gradient."""
    case = registry([name.split('/')[0]])[name]
    prepared = case.prepare(Setting(size, batch=2, mode='training'))
    prepared.work()
    parameters = prepared.model.named_parameters()
    return [key for key, p in parameters if p.requires_grad and p.grad is None]


def report_unused(patterns: Sequence[str]) -> int:
    """Print those of each case and return how many cases have some."""
    names = select(registry(['detectors', 'segmentors']), patterns)
    wrong = 0
    for name in names:
        unused = unused_parameters(name)
        wrong += bool(unused)
        print(f'{name}: {", ".join(unused) or "every parameter gets a gradient"}')
    return wrong


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--arch', default='tiny')
    add('--size', default='224x224', metavar='HxW')
    add('--batch', type=int, default=4, help='of each process')
    add('--amp', action='store_true', help='autocast to bfloat16')
    add('--device', type=device, default='cpu', help='for --table: cpu, cuda')
    add('--processes', type=int, default=2)
    add('--repeats', type=int, default=5)
    add('--rounds', type=int, default=2, help='of one process, then several')
    add('--bucket', type=float, default=25, help='MB of gradients sent at once')
    add('--table', type=int, nargs='+', metavar='GPUS')
    add('--bandwidth', type=float, help='bytes per second')
    add('--parameters', type=float, help='of the whole model; else of the backbone')
    add('--step', type=float, help='measured seconds')
    add('--backward', type=float, help='measured seconds of the backward pass in it')
    add('--into', nargs=2, metavar=('PAGE', 'NAME'), help='marked place of a page')
    add('--unused', nargs='+', metavar='PATTERN')
    args = parser.parse_args(arguments)
    if args.table and not args.bandwidth:
        parser.error('--table needs --bandwidth, as measured between the machines')
    if (args.step is None) != (args.backward is None):
        parser.error('--step and --backward belong together')
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    args = parse(arguments)
    if args.unused:
        sys.exit(min(report_unused(args.unused), 1))
    if args.table:
        one = Seconds(args.step, args.backward) if args.step else alone(args)
        lines = table(parameters_of(args), args.table, one, args.bandwidth)
    else:
        lines = measure(args)
    told = machine(args.device)
    about = ', '.join(f'{key} {value}' for key, value in told.items())
    text = '\n'.join([f'{about[:1].upper()}{about[1:]}.', '', *lines])
    print(text)
    if args.into:
        page, name = Path(args.into[0]), args.into[1]
        write_whole(page, insert(page.read_text(encoding='utf-8'), name, text))


if __name__ == '__main__':
    main()
