"""Which kernels the time goes to."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tools.benchmarks.gpu.clock import synchronize


class Kernel(NamedTuple):
    """All calls of one kernel in one pass."""

    name: str
    calls: float
    milliseconds: float


def profiled(
    work: Callable[[], object], device: str, passes: int = 1
) -> tuple[list[Kernel], float]:
    """Kernels of a pass, the longest first, and how many the host launched.

    On a CPU operators stand for kernels.
    """
    on_gpu = torch.device(device).type == 'cuda'
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    work()
    synchronize(device)
    with profile(activities=activities) as found:
        for _ in range(passes):
            work()
        synchronize(device)
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    launched = 0
    for event in found.events():
        on_device = event.device_type == DeviceType.CUDA
        if 'LaunchKernel' in event.name and not on_device:
            launched += 1
        if on_device == on_gpu:
            took = (
                event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
            )
            times[event.name] += took
            calls[event.name] += 1
    kernels = [
        Kernel(name, calls[name] / passes, took / 1e3 / passes)
        for name, took in times.most_common()
        if took > 0
    ]
    return kernels, launched / passes


def kernel_times(work: Callable[[], object], device: str) -> list[Kernel]:
    """Of one pass of a small piece of work."""
    return profiled(work, device, passes=3)[0][:12]


def as_text(kernels: list[Kernel], launched: float, title: str, count: int) -> str:
    """Lines for people; shares are of the time of all kernels."""
    total = sum(k.milliseconds for k in kernels) or 1.0
    lines = [
        f'{title}: kernels take {total:.2f} ms a pass, {launched:.0f} launches, '
        f'{len(kernels)} different kernels',
        f'{"ms":>9} {"share":>6} {"calls":>6}  kernel',
    ]
    for kernel in kernels[:count]:
        share = 100 * kernel.milliseconds / total
        lines.append(
            f'{kernel.milliseconds:9.3f} {share:5.1f}% {kernel.calls:6.0f}  '
            f'{kernel.name}'
        )
    return '\n'.join(lines) + '\n'
