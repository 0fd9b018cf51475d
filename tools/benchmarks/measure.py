"""Time and memory of a piece of work, and the machine that they were measured on."""

import argparse
import ctypes
import gc
import multiprocessing
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Work = Callable[[], object]
Result = TypeVar('Result')


def device(name: str) -> str:
    """For --device: a name of torch's, of a kind that this machine has."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f'{name!r} is no device of torch') from error
    if kind == 'cuda' and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(
            f'{name!r}, but torch sees no GPU on this machine; use cpu'
        )
    return name


def seconds(work: Work, device: str = 'cpu') -> float:
    """Of one call.

    On a CPU with one thread of torch the time of the process, which a busy machine
    disturbs little; with several the time on the clock; on a GPU the device's.
    """
    if torch.device(device).type == 'cpu':
        alone = torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        start = clock()
        work()
        return clock() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def take_turns(
    timers: Mapping[str, Callable[[], float]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """What each timer says, `repeats` times, one after the other.

    The first `warm_up` rounds do not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in timers}
    for repeat in range(-warm_up, repeats):
        for name, timer in timers.items():
            told = timer()
            if repeat >= 0:
                taken[name].append(told)
    return taken


def peak_bytes(work: Work, device: str = 'cpu') -> int:
    """Peak memory of one call beyond what is held before it.

    On a CPU, of the whole process: measure in a fresh one, after a small warm-up that
    loads what libraries load at their first call.
    """
    if torch.device(device).type != 'cpu':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    _give_back()
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts from here
    before = _resident('VmRSS')
    work()
    return _resident('VmHWM') - before


def _give_back() -> None:
    """Return what is free to the system, lest the work takes it unseen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # of glibc
    if trim is not None:
        trim(0)


def _resident(field: str) -> int:
    """Bytes, from what Linux tells about the process."""
    lines = Path('/proc/self/status').read_text().splitlines()
    line = next(line for line in lines if line.startswith(f'{field}:'))
    return 1024 * int(line.split()[1])


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """What the function returns in a process that inherits no memory of this one."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(function, arguments)


def step(model: nn.Module, *inputs: Tensor) -> None:
    """A training step without an optimizer; gradients are made anew."""
    model.zero_grad(set_to_none=True)
    outputs = tensors_of(model(*inputs))
    torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])


def infer(model: nn.Module, *inputs: Tensor) -> None:
    """A forward pass of inference."""
    with torch.no_grad():
        model(*inputs)


def tensors_of(outputs: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The outputs of a layer or of a backbone as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def copying(footprint: int, device: str = 'cpu') -> Work:
    """Copy half of a buffer of so many bytes to the other half.

    All of them are read or written, so that the footprint is also the traffic.
    """
    source = torch.ones(max(1, footprint // 8), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def use(threads: int, tf32: bool = False) -> None:
    """Threads of torch, and whether GPUs may round products to TF32."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def machine(device: str) -> dict[str, str | int]:
    """What a figure depends on beside the case itself."""
    kind = torch.device(device).type
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return {
        'torch': torch.__version__,
        'device': torch.cuda.get_device_name(device) if kind != 'cpu' else _processor(),
        'CPU capability': torch.backends.cpu.get_cpu_capability(),
        'TF32': 'on' if tf32 and kind != 'cpu' else 'off',
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
    }


def _processor() -> str:
    """Model of the CPU, as Linux names it."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.split(':')[1].strip() for line in lines if 'model name' in line]
    return names[0] if names else platform.processor() or platform.machine()


def revision(folder: Path) -> str:
    """Commit of a checkout, with '+' for changes; 'unknown' without git or outside."""
    git = ['git', '-C', str(folder), 'describe', '--always', '--dirty=+']
    try:
        answer = subprocess.run(git, capture_output=True, text=True)
    except FileNotFoundError:
        return 'unknown'
    return answer.stdout.strip() or 'unknown'


def size_of(text: str) -> tuple[int, int]:
    """'512x512' -> (512, 512)."""
    parts = text.split('x')
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(
            f'size is {text!r}; expected HxW with both from 1, as 800x1280'
        )
    return int(parts[0]), int(parts[1])
