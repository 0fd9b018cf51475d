"""Kernels against float64 in plain torch, on the device and at real shapes."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from tools.benchmarks.gpu.bench import Bench
from tools.benchmarks.gpu.cases import (
    OPS,
    Op,
    Shape,
    doubled,
    plain_torch,
    results,
)
from tools.benchmarks.gpu.facts import backends
from tools.benchmarks.gpu.ledger import Row, Task
from tools.benchmarks.measure import tensors_of

# A kernel may err twice as much as plain torch in the same precision, or this much of
# the largest value: sums have another order, and exp of a GPU errs by units.
FLOORS = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
DTYPES = (torch.float32, torch.bfloat16)


def tasks(bench: Bench) -> Iterator[Task]:
    """Every op in both precisions at every shape, then one network."""
    yield Task('backends', 'of each op', lambda: backends(bench), 45)
    for shape_of in range(max(len(bench.scale.parity), len(bench.scale.filters))):
        for name, op in OPS.items():
            shapes = bench.scale.filters if name == 'ssm2d' else bench.scale.parity
            if shape_of >= len(shapes) or op.absent:
                continue
            for dtype in DTYPES:
                words = _words(name, shapes[shape_of], dtype)
                run = partial(check, name, op, shapes[shape_of], dtype, bench.device)
                yield Task('parity', words, run, 15)
    for dtype in DTYPES:
        run = partial(check_network, bench, dtype)
        yield Task('parity', f'SpatialMamba-T, {name_of(dtype)}', run, 15)


def check(name: str, op: Op, shape: Shape, dtype: torch.dtype, device: str) -> Row:
    """Errors of the result and of all gradients, the worst first."""
    torch.manual_seed(0)
    inputs = op.inputs(shape, dtype, device)
    ours = results(op.kernels, inputs)
    digits = ours[0].dtype
    exact = results(op.exact, doubled(inputs), digits)
    plain = results(op.exact, inputs, digits)
    return {'op': name, **judged(ours, plain, exact, dtype)}


def judged(
    ours: list[Tensor], plain: list[Tensor], exact: list[Tensor], dtype: torch.dtype
) -> Row:
    """The row about results and gradients of which the first is the result."""
    found = [error(a, b) for a, b in zip(ours, exact, strict=True)]
    theirs = [error(a, b) for a, b in zip(plain, exact, strict=True)]
    allowed = [max(2 * e, FLOORS[dtype]) for e in theirs]
    over = [f / a for f, a in zip(found, allowed, strict=True)]
    worst = max(range(len(over)), key=lambda i: over[i])
    return {
        'parity': 'equal' if all(x <= 1 for x in over) else 'RED',
        'result': found[0],
        'gradients': max(found[1:]),
        'worst': 'result' if worst == 0 else f'gradient {worst - 1}',
        'its error': found[worst],
        'plain torch': theirs[worst],
        'over': [i for i, x in enumerate(over) if not x <= 1],
    }


def error(actual: Tensor, exact: Tensor) -> float:
    """max |actual - exact| over max |exact|; infinite if a value is not finite."""
    difference = (actual.detach().double() - exact).abs().max()
    relative = difference / exact.abs().max().clamp_min(1e-300)
    return relative.item() if relative.isfinite() else math.inf


def check_network(bench: Bench, dtype: torch.dtype) -> Row:
    """SpatialMamba-T in training with its kernels, without, and in double."""
    from mmssm.backbones import SpatialMamba

    size = bench.scale.single
    torch.manual_seed(0)
    arch = bench.scale.archs['t']
    with torch.device(bench.device):
        model = SpatialMamba(arch).train()
        image = torch.randn(2, 3, size.height, size.width)
    ours = _outputs(model, image, dtype)
    with plain_torch():
        plain = _outputs(model, image, dtype)
        exact = _outputs(model.double(), image.double(), torch.float64)
    row = judged(ours, plain, exact, dtype)
    row['parity'] = 'see error'  # errors of a whole network add up by chance
    return row


def _outputs(model: nn.Module, image: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The last map and the gradients of the parameters with more than one value."""
    kind, reduced = image.device.type, dtype == torch.bfloat16
    with torch.autocast(kind, torch.bfloat16, enabled=reduced):
        y = tensors_of(model(image))[-1]
    generator = torch.Generator(image.device).manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, device=image.device)
    leaves = [p for p in model.parameters() if p.numel() > 1]
    found = torch.autograd.grad(y, leaves, cotangent.to(y.dtype), allow_unused=True)
    return [y.detach(), *(g for g in found if g is not None)]


def _words(name: str, shape: Shape, dtype: torch.dtype) -> str:
    return f'{name}, {words_of(shape)}, {name_of(dtype)}'


def words_of(shape: Shape) -> str:
    """1x2x3x4."""
    return 'x'.join(map(str, shape))


def name_of(dtype: torch.dtype) -> str:
    """bf16, f32."""
    return str(dtype).removeprefix('torch.').replace('bfloat', 'bf').replace('loat', '')
