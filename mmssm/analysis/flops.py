"""Multiply-accumulates of a model, the operators of this package included.

Counted as the papers do: a multiplication with its addition is one, elementwise maps,
norms and pooling are none.  Products of matrices and convolutions are those that torch
counts.  The operators of `mmssm.ops` are counted by formulas, whichever backend runs,
with the letters of that module:

    selective scan       7 B L D N, the count of the published tables
    state fusion         9 K B C H W, its convolutions; the observation, likewise
    separable attention  B C H W, its weighted sum
    2-D SSM              4 S N h w             states of a kernel of h x w
                       + 2 N d C h w           kernels of d directions
                       + (2 B + 1) C F(n)      FFTs of maps, kernels and results
                       + 4 B C P (Q / 2 + 1)   products of spectra
    FFT                  F(n) = 5 n log2(n), for a real one of n = P Q numbers too

P and Q are the lengths from H + h - 1 and W + w - 1 on that suit an FFT.  A product of
complex states counts 4, of complex states and output weights, where the real part is
all that is needed, 2.  5 n log2(n) is the usual count of operations of a complex FFT,
and an upper bound for a real one.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmssm.ops import dispatch
from mmssm.ops.filter.filters import align
from mmssm.ops.filter.plan import Plan, groups
from mmssm.ops.precision import wide


class Count(NamedTuple):
    """Multiply-accumulates: all of them, and the part of each op of this package."""

    total: int
    ops: dict[str, int]


def count_macs(
    model: nn.Module, shape: tuple[int, ...], device: str | torch.device = 'meta'
) -> Count:
    """Of one forward pass in evaluation mode, without computing it.

    shape: of the input, (B, C, H, W).  On device 'meta' no number is looked at: the
    2-D SSM is counted with all its taps, whatever its tolerance, which needs another
    device.  The model stays as it is.
    """
    model = copy.deepcopy(model).to(device)
    model.eval()  # some return nothing from it
    with counting() as read, torch.no_grad():
        model(torch.zeros(shape, device=device))
    return read()


@contextmanager
def counting() -> Iterator[Callable[[], Count]]:
    """Count all that runs in the block; the function it gives reads the count.

    Operators of this package are counted and not computed: their results are zeros.
    """
    ops: Counter[str] = Counter()
    before = dispatch.registered()
    for op, run in COUNTED.items():
        counted = partial(run, partial(_add, ops, op))
        stand_ins = [dispatch.Implementation(i.name, counted) for i in before[op]]
        dispatch.register(op, stand_ins)
    try:
        with FlopCounterMode(display=False, custom_mapping=FFTS) as counter:
            yield lambda: Count(
                counter.get_total_flops() // 2 + sum(ops.values()), dict(ops)
            )
    finally:
        for op, implementations in before.items():
            dispatch.register(op, implementations)


def fft_macs(count: int) -> int:
    """Of one transform of `count` numbers."""
    return round(5 * count * math.log2(count))


def selective_scan_macs(shape: tuple[int, ...]) -> int:
    """shape: of the states, (B, D, N, L)."""
    return 7 * math.prod(shape)


def state_fusion_macs(shape: tuple[int, ...], dilations: int) -> int:
    """shape: of the map, (B, C, H, W)."""
    return 9 * dilations * math.prod(shape)


def separable_attention_macs(shape: tuple[int, ...]) -> int:
    """shape: of the map, (B, C, H, W)."""
    return math.prod(shape)


def ssm2d_kernel_macs(A: Tensor, C: Tensor, size: tuple[int, int]) -> int:
    """States and kernels; A: (4, S, N), C: (2, directions, channels, N)."""
    states, weights = (4, 2) if A.is_complex() else (1, 1)
    return math.prod(size) * (states * A.numel() + weights * C.numel())


def ssm2d_macs(
    shape: tuple[int, ...], A: Tensor, B: Tensor, C: Tensor, plan: Plan
) -> int:
    """shape: of the map, (B, channels, H, W); others as in `ops.ssm2d`."""
    if A.is_meta:
        plan = plan._replace(tolerance=0.0)
    A, B, C, _ = align(A, B, C, None)
    total = 0
    for group in groups(A, B, C, plan, shape[2:]):
        part = C.unflatten(2, (-1, A.shape[1]))[:, :, :, group.ssms].flatten(2, 3)
        rows, columns = group.lengths
        transforms = (2 * shape[0] + 1) * part.shape[2]
        total += ssm2d_kernel_macs(A[:, group.ssms], part, group.size)
        total += transforms * fft_macs(rows * columns)
        total += 4 * shape[0] * part.shape[2] * rows * (columns // 2 + 1)
    return total


Add = Callable[[int], None]


def _add(ops: Counter, op: str, macs: int) -> None:
    ops[op] += macs


def _selective_scan(
    add: Add, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor
) -> Tensor:
    states = u.new_zeros(*u.shape[:2], A.shape[1], u.shape[2])
    add(selective_scan_macs(states.shape))
    return states


def _state_fusion(
    add: Add, h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> Tensor:
    add(state_fusion_macs(h.shape, len(dilations)))
    return torch.zeros_like(h)


def _observe(
    add: Add,
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
) -> Tensor:
    return _state_fusion(add, h, kernels, alpha, dilations)


def _separable_attention(
    add: Add, x: Tensor, weight: Tensor, alpha: Tensor, beta: Tensor, masked: bool
) -> Tensor:
    add(separable_attention_macs(x.shape))
    return torch.zeros_like(x)


def _ssm2d(
    add: Add,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
) -> Tensor:
    add(ssm2d_macs(x.shape, A, B, C, Plan((height, width), tolerance, '')))
    (wider,) = wide(x)
    return torch.zeros_like(wider)


def _ssm2d_kernel(
    add: Add, A: Tensor, B: Tensor, C: Tensor, height: int, width: int
) -> Tensor:
    add(ssm2d_kernel_macs(A, C, (height, width)))
    return A.real.new_zeros(*C.shape[1:3], height, width)


COUNTED: Mapping[str, Callable[..., Tensor]] = {
    'selective_scan': _selective_scan,
    'state_fusion': _state_fusion,
    'observe': _observe,
    'separable_attention': _separable_attention,
    'ssm2d': _ssm2d,
    'ssm2d_kernel': _ssm2d_kernel,
}


def _transforms(real: Tensor, axes: list[int]) -> int:
    """Twice the count of FFTs over these axes, as torch's counter has it."""
    length = math.prod(real.shape[axis] for axis in axes)
    return 2 * (real.numel() // length) * fft_macs(length)


def _forward(x: Tensor, axes: list[int], *rest: object, out_val: Tensor) -> int:
    return _transforms(x, axes)


def _backward(x: Tensor, axes: list[int], *rest: object, out_val: Tensor) -> int:
    return _transforms(out_val, axes)


for _formula in (_forward, _backward):
    _formula._get_raw = True  # tensors, not their shapes: torch's mark for it
FFTS = {
    torch.ops.aten._fft_r2c: _forward,
    torch.ops.aten._fft_c2r: _backward,
    torch.ops.aten._fft_c2c: _forward,
}
