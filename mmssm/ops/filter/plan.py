"""How the work of a filter is divided: groups of SSMs, then chunks of channels."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from mmssm.ops.fft import fast_length, fft_macs
from mmssm.ops.filter.truncation import supports

Size = tuple[int, int]
SMALL = 32**2  # cells up to which a bound of the reach costs more than it saves


class Budget(NamedTuple):
    """Bytes of a group's states, of a block's kernels and of a chunk's spectra."""

    states: int
    kernels: int
    spectra: int


# On a CPU memory from 32 MB on comes as fresh pages at every call, and spectra are to
# stay in its cache; other devices want few launches.
CPU = Budget(states=9 << 20, kernels=7 << 20, spectra=1 << 20)
OTHER = Budget(states=512 << 20, kernels=512 << 20, spectra=256 << 20)


class Plan(NamedTuple):
    """How a filter is computed.

    size: (height, width) of the kernels.  tolerance: see `supports`; 0 keeps all taps.
    states: name of the algorithm for the states.
    """

    size: Size
    tolerance: float
    states: str


class Part(NamedTuple):
    """Some SSMs s and some rows r of the channels r S + s of what is divided."""

    ssms: slice
    rows: slice


class Channels(NamedTuple):
    """A part of a part ... of the channels of S SSMs."""

    ssms: int
    parts: tuple[Part, ...]

    def of(self, maps: Tensor) -> Tensor:
        """These channels of (B, channels, ...), a view (B, rows, ssms, ...)."""
        maps = maps.unflatten(1, (-1, self.ssms))
        for part in self.parts:
            maps = maps[:, part.rows, part.ssms]
        return maps


class Group(NamedTuple):
    """Neighbouring SSMs, the size of their kernels, and the lengths of their FFT."""

    ssms: slice
    size: Size
    lengths: Size

    @property
    def part(self) -> Part:
        """All channels of the SSMs."""
        return Part(self.ssms, slice(None))


def groups(
    A: Tensor, B: Tensor, C: Tensor, plan: Plan, map_size: Size
) -> Iterator[Group]:
    """SSMs that are computed together: their states fit and their reach is similar."""
    if plan.tolerance > 0 and math.prod(plan.size) > SMALL:
        sizes = supports(A, B, C, plan.size, plan.tolerance)
    else:
        sizes = [plan.size] * A.shape[1]
    cells = budget(A).states // (2 * A.shape[2] * A.element_size())
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop < len(sizes) and _fit_together(sizes[start : stop + 1], cells):
            continue
        size = _cover(sizes[start:stop], plan.size)
        rows, columns = (
            fast_length(m + k - 1) for m, k in zip(map_size, size, strict=True)
        )
        yield Group(slice(start, stop), size, (rows, columns))
        start = stop


def kernel_macs(A: Tensor, C: Tensor, size: Size) -> int:
    """States and kernels of `size`; A: (4, S, N), C: (2, directions, channels, N).

    A product of complex states counts 4; of complex states and output weights, where
    the real part is all that is needed, 2.
    """
    states, weights = (4, 2) if A.is_complex() else (1, 1)
    return math.prod(size) * (states * A.numel() + weights * C.numel())


def filter_macs(
    batch: int, size: Size, A: Tensor, B: Tensor, C: Tensor, plan: Plan
) -> int:
    """Kernels, FFTs of maps, kernels and results, and products of spectra.

    size: of the maps; their channels are a multiple of S.  Where the parameters are on
    device 'meta' all taps are counted.
    """
    if A.is_meta:
        plan = plan._replace(tolerance=0.0)
    total = 0
    for group in groups(A, B, C, plan, size):
        part = C.unflatten(2, (-1, A.shape[1]))[:, :, :, group.ssms].flatten(2, 3)
        rows, columns = group.lengths
        transforms = (2 * batch + 1) * part.shape[2]
        total += kernel_macs(A[:, group.ssms], part, group.size)
        total += transforms * fft_macs(rows * columns)
        total += 4 * batch * part.shape[2] * rows * (columns // 2 + 1)
    return total


def parts(ssms: int, rows: int, fit: int) -> Iterator[Part]:
    """Channels of `ssms` SSMs, `rows` of each, at most `fit` at a time, at least one.

    A part has all rows of some SSMs or some rows of one.
    """
    ssms_at_once, rows_at_once = max(1, fit // rows), max(1, min(fit, rows))
    for s in range(0, ssms, ssms_at_once):
        for r in range(0, rows, rows_at_once):
            yield Part(slice(s, s + ssms_at_once), slice(r, r + rows_at_once))


def budget(tensor: Tensor) -> Budget:
    """That of the tensor's device."""
    return CPU if tensor.device.type == 'cpu' else OTHER


def _fit_together(sizes: list[Size], cells: int) -> bool:
    """Whether the states of all fit and none is computed on over twice its cells."""
    heights, widths = zip(*sizes, strict=True)
    area = max(heights) * max(widths)
    return area * len(sizes) <= cells and area <= 2 * min(h * w for h, w in sizes)


def _cover(sizes: list[Size], full: Size) -> Size:
    """The size that covers all, in steps of 4 (few different FFTs), at most `full`."""
    height, width = (
        min(-(-max(lengths) // 4) * 4, most)
        for lengths, most in zip(zip(*sizes, strict=True), full, strict=True)
    )
    return height, width
