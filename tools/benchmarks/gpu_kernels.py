"""Parity, then time and bandwidth of the Triton kernels on a CUDA device.

    python tools/benchmarks/gpu_kernels.py --out work_dirs/gpu_kernels

Needs torch and Triton, nothing of OpenMMLab.  First every kernel against its plain
form, forward and backward, at odd sizes: in double, and in lower precision against the
plain form's own error.  If one differs the command fails and times nothing.  Then the
median time of each pass at the sizes of SpatialMamba-T for pictures of 512 x 512, and
that of the plain form for comparison.  The bytes of a pass are those of what it must
read and write once; their fraction of the bandwidth of a copy, measured in the same
run, says how far a pass is from the best.  Caches are flushed before every measurement.

Writes OUT.json and OUT.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmssm.ops import gpu, selective_scan, state_fusion
from mmssm.ops.filter.kernels import STATES
from tools.benchmarks.report import write_whole

DOUBLE = 1e-10
FLOOR = 2e-6  # of float32: exp of a GPU errs by units, by more for large arguments
STAGES = ((128, 128), (256, 64), (512, 32), (1024, 16))  # inner channels, side
MAPS = ((64, 64), (200, 334))  # of the 2-D SSM
PAIRS = 128


class Case(NamedTuple):
    """One op at one size.  fast and plain take the inputs and give one tensor."""

    op: str
    size: str
    inputs: list[Tensor]
    fast: Callable[..., Tensor]
    plain: Callable[..., Tensor]


def observe(h: Tensor, C: Tensor, u: Tensor, D: Tensor, *fusion: Tensor) -> Tensor:
    """The observation as one op."""
    from mmssm.ops.observation.triton import observe_triton

    return observe_triton(h, C, u, D, *fusion, (1, 3, 5))


def observe_plain(
    h: Tensor, C: Tensor, u: Tensor, D: Tensor, *fusion: Tensor, backend: str
) -> Tensor:
    """The observation after a plain state fusion."""
    fused = state_fusion(h, *fusion, backend=backend)
    dtype = torch.promote_types(fused.dtype, torch.float32)
    return C.to(dtype) * fused + D[:, None, None] * u.to(dtype)


class States(torch.autograd.Function):
    """The states of the 2-D SSM by an algorithm, (4, P), (2, P) -> (H, W, 2, P)."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, size: tuple, name: str) -> Tensor:
        run, ctx.adjoint = STATES[name]
        X = run(A, B, *size)
        ctx.save_for_backward(A, B, X)
        return X

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        A, B, X = ctx.saved_tensors
        G = torch.empty_like(X).copy_(grad)  # it is overwritten
        return *ctx.adjoint(A, B, X, G), None, None


def draw(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A leaf on the GPU."""
    return torch.randn(size, device='cuda', dtype=dtype).requires_grad_()


def last(map_or_sequence: Tensor) -> Tensor:
    """The same values with channels contiguous in memory."""
    moved = map_or_sequence.detach().movedim(1, -1).contiguous().movedim(-1, 1)
    return moved.requires_grad_()


def scan_case(
    batch: int, channels: int, side: tuple[int, int], dtype: torch.dtype, plain: str
) -> Case:
    """u, delta and B in dtype, A and delta_bias in float32 at least."""
    full = torch.promote_types(dtype, torch.float32)
    length = math.prod(side)
    make = partial(draw, dtype=dtype)
    A = -torch.exp(draw(channels, 1, dtype=full).detach())
    inputs = [
        last(make(batch, channels, length)),
        last(make(batch, channels, length)),
        A.requires_grad_(),
        make(batch, 1, 1, length),
        draw(channels, dtype=full),
    ]
    fast, slow = (partial(selective_scan, backend=b) for b in ('triton', plain))
    size = f'{batch} x {channels} x {length}, {name_of(dtype)}'
    return Case('selective_scan', size, inputs, fast, slow)


def fusion_cases(
    batch: int, channels: int, side: tuple[int, int], dtype: torch.dtype, plain: str
) -> list[Case]:
    """State fusion and observation; h and parameters in float32 at least."""
    full = torch.promote_types(dtype, torch.float32)
    h, u = (last(draw(batch, channels, *side, dtype=d)) for d in (full, dtype))
    parameters = [draw(3, channels, 1, 3, 3, dtype=full), draw(3, dtype=full)]
    others = [draw(batch, 1, *side, dtype=dtype), u, draw(channels, dtype=full)]
    size = f'{batch} x {channels} x {side[0]} x {side[1]}, {name_of(dtype)}'
    fast, slow = (partial(state_fusion, backend=b) for b in ('triton', plain))
    cases = []
    if dtype == full:  # h comes from the scan, which gives no other
        cases.append(Case('state_fusion', size, [h, *parameters], fast, slow))
    slow = partial(observe_plain, backend=plain)
    cases.append(Case('observation', size, [h, *others, *parameters], observe, slow))
    return cases


def states_case(size: tuple[int, int], dtype: torch.dtype, plain: str) -> Case:
    """Parameters of modulus below 1."""
    real = torch.float64 if dtype in (torch.float64, torch.complex128) else None
    real = real or torch.float32
    A = torch.sigmoid(draw(4, PAIRS, dtype=real).detach())
    if dtype.is_complex:
        A = torch.polar(A, 3 * draw(4, PAIRS, dtype=real).detach())
    inputs = [A.requires_grad_(), draw(2, PAIRS, dtype=dtype)]
    fast, slow = (
        lambda A, B, name=name: States.apply(A, B, size, name)
        for name in ('triton', plain)
    )
    words = f'{size[0]} x {size[1]} x {PAIRS}, {name_of(dtype)}'
    return Case('ssm2d states', words, inputs, fast, slow)


def name_of(dtype: torch.dtype) -> str:
    """Without its module."""
    return str(dtype).removeprefix('torch.')


def results(
    function: Callable[..., Tensor], inputs: list[Tensor]
) -> tuple[Tensor, ...]:
    """The result and all gradients, for a cotangent drawn in double."""
    y = function(*inputs)
    generator = torch.Generator('cuda').manual_seed(0)
    wide = torch.complex128 if y.is_complex() else torch.float64
    cotangent = torch.randn(y.shape, generator=generator, device='cuda', dtype=wide)
    return y, *torch.autograd.grad(y, inputs, cotangent.to(y.dtype))


def error(actual: Tensor, exact: Tensor) -> float:
    """max |actual - exact| over max |exact|; infinite if a value is not finite."""
    wide = torch.complex128 if exact.is_complex() else torch.float64
    actual, exact = actual.detach().to(wide), exact.detach().to(wide)
    worst = (actual - exact).abs().max() / exact.abs().max().clamp_min(1e-300)
    return worst.item() if worst.isfinite() else math.inf


def check(case: Case) -> dict[str, Any]:
    """The worst error of the result and the gradients, and whether all are allowed."""
    wide = torch.complex128 if case.inputs[0].is_complex() else torch.float64
    exact_inputs = [
        t.detach().to(wide if t.is_complex() else torch.float64).requires_grad_()
        for t in case.inputs
    ]
    exact = results(case.plain, exact_inputs)
    fast, again = (results(case.fast, case.inputs) for _ in range(2))
    plain = results(case.plain, case.inputs)
    worst, passed = 0.0, True
    for ours, twice, theirs, truth in zip(fast, again, plain, exact, strict=True):
        found = error(ours, truth)
        double = ours.dtype in (torch.float64, torch.complex128)
        floor = max(FLOOR, 2 * torch.finfo(theirs.dtype).eps)
        allowed = DOUBLE if double else max(2 * error(theirs, truth), floor)
        passed &= found <= allowed and torch.equal(ours, twice)
        worst = max(worst, found)
    return dict(op=case.op, size=case.size, error=worst, passed=passed)


def parity() -> list[dict[str, Any]]:
    """Every kernel at odd sizes, in one and in several tiles."""
    cases = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for batch, channels, side in (
            (2, 7, (7, 9)),
            (1, 40, (67, 45)),
            (3, 5, (1, 1)),
        ):
            cases.append(scan_case(batch, channels, side, dtype, 'naive'))
            cases += fusion_cases(batch, channels, side, dtype, 'naive')
    for dtype in (torch.float64, torch.float32, torch.complex128, torch.complex64):
        for size in ((7, 9), (33, 20), (3, 1100), (1, 5)):
            cases.append(states_case(size, dtype, 'wavefront'))
    checked = [check(case) for case in cases]
    for row in checked:
        words = 'equal' if row['passed'] else 'DIFFERS, or is not reproduced'
        print(f'{row["op"]:15} {row["size"]:32} error {row["error"]:.1e}  {words}')
    return checked


class Clock:
    """Median seconds of a call, each with cold caches."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.flush = torch.empty(1 << 26, device='cuda')  # 256 MiB

    def __call__(self, work: Callable[[], Any]) -> float:
        times = []
        for repeat in range(self.repeats + 3):
            self.flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            if repeat >= 3:  # the first ones compile and warm up
                times.append(start.elapsed_time(end) / 1e3)
        return median(times)


def copy_bandwidth(clock: Clock) -> float:
    """Bytes per second, read and written, of a copy of 1 GiB."""
    source = torch.randn(1 << 28, device='cuda')
    target = torch.empty_like(source)
    return 2 * source.nbytes / clock(lambda: target.copy_(source))


def bytes_of(*tensors: Tensor) -> int:
    """Of distinct values."""
    return sum(t.numel() * t.element_size() for t in tensors)


def measure(case: Case, clock: Clock, bandwidth: float) -> list[dict[str, Any]]:
    """Rows of the forward and of the backward pass."""
    rows = []
    for name in ('fast', 'plain'):
        run = getattr(case, name)
        try:
            with torch.no_grad():
                forward = clock(lambda run=run: run(*case.inputs))
            y = run(*case.inputs)
            grad = torch.randn_like(y)
            backward = clock(
                lambda y=y, grad=grad: torch.autograd.grad(
                    y, case.inputs, grad, retain_graph=True
                )
            )
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            forward = backward = None
        rows.append((forward, backward))
        y = grad = None
    inputs = bytes_of(*case.inputs)
    output = bytes_of(case.fast(*case.inputs))
    keeps_output = case.op in ('selective_scan', 'ssm2d states')
    # backward: inputs and their gradients, that of the output, and what is saved of it
    moved = (inputs + output, 2 * inputs + output * (2 if keeps_output else 1))
    table = []
    for k, direction in enumerate(('forward', 'backward')):
        fast, plain = rows[0][k], rows[1][k]
        share = fast and moved[k] / fast / bandwidth
        table.append(
            dict(
                op=case.op,
                size=case.size,
                direction=direction,
                seconds=fast,
                plain_seconds=plain,
                bytes=moved[k],
                fraction_of_copy=share,
            )
        )
    return table


def timings(clock: Clock, bandwidth: float) -> list[dict[str, Any]]:
    """All ops at all sizes; the inputs of a case live only while it is measured."""
    makers = []
    for batch in (1, 32):
        for dtype in (torch.float32, torch.bfloat16):
            for channels, side in STAGES:
                size = (batch, channels, (side, side), dtype)
                makers.append(partial(lambda *size: [scan_case(*size, 'tree')], *size))
                makers.append(partial(fusion_cases, *size, 'shared_border'))
    for dtype in (torch.float32, torch.complex64):
        for size in MAPS:
            makers.append(
                lambda size=size, dtype=dtype: [states_case(size, dtype, 'tiled')]
            )
    table = []
    for make in makers:
        for case in make():
            table += measure(case, clock, bandwidth)
            print(
                markdown_row(table[-2]), markdown_row(table[-1]), sep='\n', flush=True
            )
    return table


def markdown_row(row: dict[str, Any]) -> str:
    """Milliseconds; a dash for what did not fit into memory."""
    fast, plain = (
        '-' if s is None else f'{1e3 * s:.3f}'
        for s in (row['seconds'], row['plain_seconds'])
    )
    share = row['fraction_of_copy']
    part = '-' if share is None else f'{share:.2f}'
    return (
        f'| {row["op"]} | {row["size"]} | {row["direction"]} | {fast} | {plain} '
        f'| {part} |'
    )


def report(facts: dict[str, Any]) -> str:
    """The whole run as a page of Markdown."""
    head = [
        f'# Triton kernels on {facts["device"]}',
        '',
        f'torch {facts["torch"]}, Triton {facts["triton"]}; sums in float32, no matrix '
        'products, so that TF32 plays no part; cold caches, medians.',
        f'A copy moves {facts["copy_bytes_per_second"] / 1e9:.0f} GB/s.',
        '',
        '| op | size | pass | Triton ms | torch ms | of a copy |',
        '| --- | --- | --- | ---: | ---: | ---: |',
    ]
    return '\n'.join([*head, *map(markdown_row, facts['timings']), ''])


def main() -> None:
    """See the description of the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, required=True, help='without extension')
    parser.add_argument('--repeats', type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit('there is no CUDA device; this command measures kernels on one')
    if gpu.requires() is not None:
        sys.exit(f'the kernels cannot run: {gpu.requires()}')
    if gpu.interpreted():
        sys.exit('TRITON_INTERPRET is 1, which would time the interpreter; unset it')
    import triton

    torch.manual_seed(0)
    checked = parity()
    if not all(row['passed'] for row in checked):
        sys.exit('parity gate: a kernel differs from its plain form; nothing was timed')
    clock = Clock(args.repeats)
    bandwidth = copy_bandwidth(clock)
    facts = dict(
        device=torch.cuda.get_device_name(),
        torch=torch.__version__,
        triton=triton.__version__,
        copy_bytes_per_second=bandwidth,
        parity=checked,
        timings=timings(clock, bandwidth),
    )
    write_whole(
        args.out.with_name(f'{args.out.name}.json'), json.dumps(facts, indent=1)
    )
    write_whole(args.out.with_name(f'{args.out.name}.md'), report(facts))
    print(f'\nwritten: {args.out}.json and {args.out}.md')


if __name__ == '__main__':
    main()
