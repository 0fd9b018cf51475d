"""The machine: what it is, and the two ceilings that figures are held against."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from mmssm.ops import dispatch
from tools.benchmarks.gpu.bench import Bench
from tools.benchmarks.gpu.cases import OPS, Op, Shape
from tools.benchmarks.gpu.ledger import Row, Task
from tools.benchmarks.measure import machine, revision

QUERY = (
    'driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,'
    'temperature.gpu,power.draw,power.limit,memory.used'
)


def tasks(bench: Bench) -> Iterator[Task]:
    """Software, clocks, the bandwidth of a copy, the rate of products in bf16."""
    yield Task('facts', 'machine', lambda: _machine(bench))
    if bench.on_gpu:
        yield Task('facts', 'nvidia-smi, idle', _queried)
    yield Task('facts', 'copy', lambda: _copy(bench))
    yield Task('facts', 'bf16 product', lambda: _product(bench))
    if bench.on_gpu:
        yield Task('facts', 'nvidia-smi, after the product', _queried)


def _machine(bench: Bench) -> Row:
    row: Row = dict(machine(bench.device))
    row['commit'] = revision(Path(__file__).parent)
    row['CUDA'], row['cuDNN'] = torch.version.cuda, torch.backends.cudnn.version()
    for name in ('triton', 'timm'):
        try:
            row[name] = __import__(name).__version__
        except ImportError as error:
            row[name] = str(error)
    if bench.on_gpu:
        found = torch.cuda.get_device_properties(bench.device)
        row['multiprocessors'] = found.multi_processor_count
        row['memory, GB'] = found.total_memory / 1e9
        row['L2, MB'] = getattr(found, 'L2_cache_size', 0) / 1e6
    return row


def _queried() -> Row:
    """Read, never set."""
    command = ['nvidia-smi', f'--query-gpu={QUERY}', '--format=csv,noheader']
    told = subprocess.run(command, capture_output=True, text=True, timeout=15)
    if told.returncode:
        raise RuntimeError(f'nvidia-smi: {told.stderr or told.stdout}')
    values = told.stdout.strip().splitlines()[0].split(', ')
    return dict(zip(QUERY.split(','), values, strict=True))


def _copy(bench: Bench) -> Row:
    """Both the read and the written bytes count."""
    source = torch.rand(bench.scale.copy // 4, device=bench.device)
    target = torch.empty_like(source)
    milliseconds = bench.clock(lambda: target.copy_(source))
    rate = 2e3 * source.nbytes / milliseconds
    return {'copy_bytes_per_second': rate, 'GB/s': rate / 1e9, 'ms': milliseconds}


def _product(bench: Bench) -> Row:
    side = bench.scale.matmul
    a, b = torch.randn(2, side, side, device=bench.device, dtype=torch.bfloat16)
    milliseconds = bench.clock(lambda: a @ b)
    return {'TFLOP/s': 2 * side**3 / milliseconds / 1e9, 'ms': milliseconds}


def backends(bench: Bench) -> Row:
    """What each op takes on this device, and why not the kernels where it does not."""
    shape = bench.scale.parity[0]
    return {op.function: backend_of(op, shape, bench.device) for op in OPS.values()}


def backend_of(op: Op, shape: Shape, device: str) -> str:
    """'triton', or why its kernels are not used; the first time they are tried."""
    for candidate in dispatch.registered().get(op.function, ()):
        if candidate.name == 'triton':
            inputs = op.inputs(shape, torch.float32, device)
            return candidate.requires() or candidate.why_not(*inputs) or 'triton'
    return 'absent'
