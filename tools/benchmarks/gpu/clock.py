"""Times on a device, of calls and of whole passes."""

import math
import time
from collections.abc import Callable
from statistics import median

import torch

Work = Callable[[], object]


def synchronize(device: str) -> None:
    """Wait for the device, where it works by itself."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize()


class Clock:
    """Median milliseconds of a call, each time with cold caches.

    The stream sleeps while the host puts the call into its queue, so that what counts
    is the device's work alone; the sleep is lengthened until that is so.
    """

    warm_up = 3
    longest_sleep = 1 << 25  # cycles, some 20 ms

    def __init__(self, device: str, repeats: int = 20) -> None:
        self.on_gpu = torch.device(device).type == 'cuda'
        self.repeats = repeats
        self.sleep = 1 << 20
        # 256 MiB, several times the second-level cache
        self.flush = torch.empty(1 << 26 if self.on_gpu else 1, device=device)

    def __call__(self, work: Work) -> float:
        for _ in range(self.warm_up if self.on_gpu else 0):
            work()
        self.sleep = 1 << 20
        taken: list[float] = []
        while len(taken) < self.repeats:
            told = self._on_gpu(work) if self.on_gpu else self._on_cpu(work)
            if told is not None:
                taken.append(told)
        return median(taken)

    def _on_gpu(self, work: Work) -> float | None:
        """Milliseconds, or None where the host was slower than the sleep."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        self.flush.zero_()
        torch.cuda._sleep(self.sleep)
        start.record()
        work()
        end.record()
        late = start.query()  # the sleep was over before all was queued
        torch.cuda.synchronize()
        if late and self.sleep < self.longest_sleep:
            self.sleep *= 2
            return None
        return start.elapsed_time(end)

    @staticmethod
    def _on_cpu(work: Work) -> float:
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)


def pass_milliseconds(
    work: Work, device: str, repeats: int = 10, warm_up: int = 10
) -> float:
    """Median of a whole pass with its dispatch, each time over some 50 ms of them."""
    for _ in range(warm_up):
        work()
    one = _elapsed(work, device, 1)
    in_a_row = max(1, min(10, math.ceil(50 / one))) if warm_up else 1
    return median(_elapsed(work, device, in_a_row) for _ in range(repeats))


def _elapsed(work: Work, device: str, times: int) -> float:
    """Milliseconds of one of `times` passes in a row."""
    if torch.device(device).type != 'cuda':
        start = time.perf_counter()
        for _ in range(times):
            work()
        return 1e3 * (time.perf_counter() - start) / times
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / times
