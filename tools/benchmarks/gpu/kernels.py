"""Time of each operator alone, as a share of what a copy of its bytes takes."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from tools.benchmarks.gpu.bench import Bench
from tools.benchmarks.gpu.cases import (
    OPS,
    Shape,
    bytes_of,
    depthwise_conv,
    gated_norm,
)
from tools.benchmarks.gpu.ledger import Row, Task
from tools.benchmarks.gpu.parity import words_of
from tools.benchmarks.gpu.profiles import kernel_times

# name in the tables -> op whose inputs it gets, what is run (None: the op's kernels),
# memory format other than the inputs'.  Convolutions between the mixers have half the
# channels.
RIVALS: dict[str, tuple[str, Callable[..., Tensor] | None, bool]] = {
    'scan': ('scan', None, False),
    'observe': ('observe', None, False),
    'gated norm': ('gated norm', None, False),
    'conv + SiLU': ('conv + SiLU', None, False),
    'x + conv': ('x + conv', None, False),
    'ssm2d': ('ssm2d', None, False),
    'gated norm, eager': ('gated norm', gated_norm, False),
    'conv + SiLU, cuDNN NHWC': (
        'conv + SiLU',
        partial(depthwise_conv, activation='silu'),
        False,
    ),
    'conv + SiLU, cuDNN NCHW': (
        'conv + SiLU',
        partial(depthwise_conv, activation='silu'),
        True,
    ),
    'x + conv, cuDNN NHWC': ('x + conv', partial(depthwise_conv, residual=True), False),
    'x + conv, cuDNN NCHW': ('x + conv', partial(depthwise_conv, residual=True), True),
}


def tasks(bench: Bench) -> Iterator[Task]:
    """Stages of SpatialMamba-T in bf16; at the first ones, what each call launches."""
    for group, shapes in bench.scale.stages.items():
        for stage, shape in enumerate(shapes, 1):
            for name, (op, run, _) in RIVALS.items():
                if run is None and OPS[op].absent:
                    continue
                words = f'{group} stage {stage}: {name}'
                yield Task('kernels', words, partial(timed, bench, name, shape), 5)
    for group, shapes in bench.scale.stages.items():
        for stage in (1, 3):
            if stage > len(shapes):
                continue
            for name, (op, run, _) in RIVALS.items():
                if not (run is None and OPS[op].absent):
                    launched = partial(launches, bench, name, shapes[stage - 1])
                    words = f'{group} stage {stage}: launches of {name}'
                    yield Task('kernels', words, launched, 5)


def prepared(
    bench: Bench, name: str, shape: Shape
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """What is run, and its inputs."""
    op, run, nchw = RIVALS[name]
    if op == 'x + conv':
        shape = (shape[0], max(1, shape[1] // 2), *shape[2:])
    torch.manual_seed(0)
    inputs = OPS[op].inputs(shape, torch.bfloat16, bench.device)
    if nchw:
        inputs[0] = inputs[0].detach().contiguous().requires_grad_()
    return run or OPS[op].kernels, inputs


def _flag(bench: Bench, name: str) -> Row:
    op, run, _ = RIVALS[name]
    return bench.wrong(op) if run is None else {}


def timed(bench: Bench, name: str, shape: Shape) -> Row:
    """Both passes; ideal bytes are inputs and outputs once each."""
    run, inputs = prepared(bench, name, shape)
    with torch.no_grad():
        forward = bench.clock(lambda: run(*inputs))
    y = run(*inputs)
    grad = torch.randn_like(y)
    backward = bench.clock(
        lambda: torch.autograd.grad(y, inputs, grad, retain_graph=True)
    )
    ideal = bytes_of(*inputs, y), 2 * bytes_of(*inputs) + bytes_of(y)
    row: Row = {'shape': words_of(shape), 'forward, ms': forward}
    row['backward, ms'] = backward
    if bench.bandwidth:
        for direction, size, took in zip(
            ('forward', 'backward'), ideal, (forward, backward), strict=True
        ):
            row[f'{direction}, of copy'] = 1e3 * size / bench.bandwidth / took
    return {**row, **_flag(bench, name)}


def launches(bench: Bench, name: str, shape: Shape) -> Row:
    """Each kernel of both passes with its own time."""
    run, inputs = prepared(bench, name, shape)
    with torch.no_grad():
        forward = kernel_times(lambda: run(*inputs), bench.device)
    y = run(*inputs)
    grad = torch.randn_like(y)
    backward = kernel_times(
        lambda: torch.autograd.grad(y, inputs, grad, retain_graph=True), bench.device
    )
    return {
        'shape': words_of(shape),
        'forward kernels': [list(k) for k in forward],
        'backward kernels': [list(k) for k in backward],
        **_flag(bench, name),
    }
