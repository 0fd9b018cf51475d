"""ONNX files of backbones beside eager PyTorch: parity, then latency.

    python -m tools.benchmarks.exported --cases vminet-xs
    python -m tools.benchmarks.exported --cases spatialmamba-t --files work_dirs/onnx

Every backbone, with random weights, is written as a file for pictures of any size, or
taken from the folder of --files where it lies from another time.  It is compared with
the model at three sizes; if one differs nothing is reported and the exit status is 1.
Then onnxruntime and eager mode take turns, the backbones one after the other, after two
rounds that do not count; times are medians.  With one thread a time is that of the
process, else that on the clock.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from mmssm.export import compare_onnx, export_onnx
from mmssm.export.parity import onnx_runner
from tools.benchmarks.backbones import backbones
from tools.benchmarks.case import select
from tools.benchmarks.measure import (
    infer,
    machine,
    revision,
    seconds,
    size_of,
    take_turns,
    use,
)
from tools.benchmarks.parity_gate import move_zeros
from tools.benchmarks.report import insert, sentence, write_whole
from tools.benchmarks.revisions import ROOT
from tools.benchmarks.suite import WARM_UP

SIZES = [(224, 224), (193, 321), (512, 512)]


class Figures(NamedTuple):
    """Of one backbone.

    eager, onnx: seconds of each round.  error: as in `Parity`, the largest.
    bytes: of the file.  writing: seconds of the process, None where it was there.
    """

    name: str
    eager: list[float]
    onnx: list[float]
    error: float
    bytes: int
    writing: float | None


def build(name: str, size: tuple[int, int]) -> nn.Module:
    """The backbone of the suite in evaluation mode."""
    torch.manual_seed(0)
    model = backbones()[name].build(size, False)
    model.eval()  # some of mmdet's return nothing
    move_zeros(model)
    return model


def exportable(name: str, model: nn.Module) -> nn.Module:
    """What computes the same with windows of any size, where it has windows."""
    if not name.startswith('swin'):
        return model
    from mmssm.openmmlab.any_size import with_free_sizes

    return with_free_sizes(model)


def measure(name: str, args: argparse.Namespace, folder: Path) -> Figures:
    """Write, compare, and take turns.

    Raises ValueError where the file does not compute what the model does.
    """
    size, path, writing = size_of(args.size), folder / f'{name}.onnx', None
    model = build(name, size)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        export_onnx(exportable(name, model), path)
        writing = time.process_time() - start
    found = compare_onnx(path, model, args.check)
    if not all(one.holds for one in found):
        raise ValueError(f'nothing is reported: {path} differs from its model, {found}')
    x = torch.randn(1, 3, *size)
    timers = {
        'eager': partial(seconds, partial(infer, model, x)),
        'onnx': partial(seconds, partial(onnx_runner(path), x)),
    }
    taken = take_turns(timers, args.repeats, WARM_UP)
    error = max(one.error for one in found)
    length = path.stat().st_size
    return Figures(name, **taken, error=error, bytes=length, writing=writing)


def table(args: argparse.Namespace, rows: Sequence[Figures]) -> str:
    """A line about the machine, and one for each backbone."""
    about = {**machine('cpu'), 'size': args.size, 'repeats': args.repeats}
    about |= {'date': time.strftime('%Y-%m-%d'), 'commit': revision(ROOT)}
    lines = [
        sentence(about),
        '',
        '| Backbone | Eager | onnxruntime | Difference | File | Writing |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    for row in rows:
        eager, onnx = (statistics.median(taken) for taken in (row.eager, row.onnx))
        writing = '' if row.writing is None else f'{row.writing:.0f} s'
        lines.append(
            f'| {row.name} | {eager:.2f} s | {onnx:.2f} s | {row.error:.1e} | '
            f'{row.bytes / 1e6:.0f} MB | {writing} |'
        )
    return '\n'.join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--cases', nargs='+', default=['*'], help="patterns such as 'vminet-*'")
    add('--size', default='512x512', help='of the picture that is timed (512x512)')
    add('--repeats', type=int, default=5, help='rounds (5)')
    add('--threads', type=int, default=1, help='of torch and of onnxruntime (1)')
    add('--files', type=Path, help='folder that keeps the files')
    add('--into', nargs=2, metavar=('PAGE', 'NAME'), help='marked place of a page')
    args = parser.parse_args(arguments)
    args.check = [*SIZES[:2], size_of(args.size)]
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    args = parse(arguments)
    use(args.threads)
    known = [f'backbones/{name}' for name, one in backbones().items() if one.ours]
    names = [name.split('/')[1] for name in select(known, args.cases)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.files or Path(temporary)
        rows = [measure(name, args, folder) for name in names]
    text = table(args, rows)
    if args.into:
        page = Path(args.into[0])
        write_whole(page, insert(page.read_text(), args.into[1], text))
    print(f'\n{text}')


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'exported.py: {error}')
