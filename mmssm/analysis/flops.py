"""Multiply-accumulates of a model, the operators of this package included.

Counted as the papers do: a multiplication with its addition is one, elementwise maps,
norms and pooling are none.  Products of matrices and convolutions are those that torch
counts.  The operators of `mmssm.ops` are counted by formulas, whichever backend runs,
with the letters of that module:

    selective scan       7 B L D N, the count of the published tables
    cross scan           4 B L D (9 N + 1), likewise; each direction with C and D
    state fusion         9 K B C H W, its convolutions; the observation, likewise
    separable attention  B C H W, its weighted sum
    linear attention     (2 C / heads + 1) B C H W, keys with values, queries with both
                         and the levels that divide
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmssm.ops.counting import counting_ops
from mmssm.ops.fft import fft_macs


class Count(NamedTuple):
    """Multiply-accumulates: all of them, and the part of each op of this package."""

    total: int
    ops: dict[str, int]


class Row(NamedTuple):
    """A module with all that is inside it."""

    name: str
    type: str
    params: int
    macs: int


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


def macs_per_module(
    model: nn.Module, shape: tuple[int, ...], device: str | torch.device = 'meta'
) -> list[Row]:
    """`count_macs` for every module, with its parameters; the model itself is ''.

    A module that holds or computes something beside what is inside it has a further
    row, NAME.(itself), so that the rows without rows inside them sum to the model's.
    What is used in several places, module or parameter, counts where it comes first.
    """
    params = _own_params(dict(model.named_modules()))  # moving unties shared ones
    model = copy.deepcopy(model).to(device)
    model.eval()
    modules = dict(model.named_modules())
    with counting() as read, torch.no_grad():
        macs = _own_macs(modules, lambda: read().total)
        model(torch.zeros(shape, device=device))
    rows = []
    for name, module in modules.items():
        inside = f'{name}.' if name else ''
        parts = {name, *(n for n in modules if n.startswith(inside))}
        totals = [sum(of[n] for n in parts) for of in (params, macs)]
        rows.append(Row(name, type(module).__name__, *totals))
        if len(parts) > 1 and (params[name] or macs[name]):
            rows.append(
                Row(
                    f'{inside}(itself)', type(module).__name__, params[name], macs[name]
                )
            )
    return rows


def _own_macs(modules: dict[str, nn.Module], read: Callable[[], int]) -> Counter[str]:
    """What each module computes outside the modules in it, once the model has run."""
    own: Counter[str] = Counter()
    running, last = [], 0

    def switch() -> None:
        nonlocal last
        now = read()
        if running:
            own[running[-1]] += now - last
        last = now

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            switch()
            running.append(name)

        return hook

    def leave(*_: object) -> None:
        switch()
        running.pop()

    for name, module in modules.items():
        module.register_forward_pre_hook(enter(name), prepend=True)
        module.register_forward_hook(leave)
    return own


def _own_params(modules: dict[str, nn.Module]) -> Counter[str]:
    own: Counter[str] = Counter()
    seen = set()
    for name, module in modules.items():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                own[name] += parameter.numel()
            seen.add(id(parameter))
    return own


@contextmanager
def counting() -> Iterator[Callable[[], Count]]:
    """Count all that runs in the block; the function it gives reads the count.

    Operators of this package are counted and not computed: their results are zeros.
    Other threads are neither counted nor disturbed.
    """
    with (
        counting_ops() as ops,
        FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter,
    ):
        yield lambda: Count(
            counter.get_total_flops() // 2 + sum(ops.values()), dict(ops)
        )


def _transforms(real: Tensor, axes: list[int]) -> int:
    """Twice the count of FFTs over these axes, as torch's counter has it."""
    length = math.prod(real.shape[axis] for axis in axes)
    return 2 * (real.numel() // length) * fft_macs(length)


def _forward(x: Tensor, axes: list[int], *rest: object, out_val: Tensor) -> int:
    return _transforms(x, axes)


def _backward(x: Tensor, axes: list[int], *rest: object, out_val: Tensor) -> int:
    return _transforms(out_val, axes)


def _attention(
    query: torch.Size, key: torch.Size, value: torch.Size, *rest: object, **more: object
) -> int:
    """Twice the count of q k^T and of its product with v."""
    *_, heads, rows, width = query
    return 2 * query[0] * heads * rows * key[-2] * (width + value[-1])


for _formula in (_forward, _backward):
    _formula._get_raw = True  # tensors, not their shapes: torch's mark for it
# what torch's counter has no formula of; it knows attention on GPUs and on 'meta'
FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._fft_r2c: _forward,
    torch.ops.aten._fft_c2r: _backward,
    torch.ops.aten._fft_c2c: _forward,
}
