"""What a benchmark case is."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tools.benchmarks.measure import Work, tensors_of

MODES = ('inference', 'training')
DTYPES = ('float32', 'bfloat16')


class Setting(NamedTuple):
    """Under what a case is measured.

    size: (height, width) of the images; ops and layers get the map of a first stage, a
    quarter of it each way.  dtype: bfloat16 means autocast, for ops inputs of that
    precision.
    """

    size: tuple[int, int] = (512, 512)
    batch: int = 1
    mode: str = 'inference'
    dtype: str = 'float32'
    device: str = 'cpu'
    compiled: bool = False
    with_cp: bool = False

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of a first stage."""
        height, width = (-(-side // 4) for side in self.size)
        return height, width


class Prepared(NamedTuple):
    """A case ready to run.

    work: one pass.  model: whose parameters are counted.  traffic: bytes that an op
    reads and writes at least, where its speed is given as a part of that of a copy.
    """

    work: Work
    model: nn.Module | None = None
    traffic: int | None = None


class Case(NamedTuple):
    """One line of a table.

    name: 'group/what'.  prepare: builds it.  gate: the largest relative error on a
    device against the definition, in double and with gradients; None for peers, which
    have no operator of ours.
    peer: name of the case that ratios are to.  macs: multiply-accumulates for one
    image of a size, where they are counted.  fits: which settings it can take.
    """

    name: str
    prepare: Callable[[Setting], Prepared]
    gate: Callable[[str], float] | None = None
    peer: str | None = None
    macs: Callable[[tuple[int, int]], int | None] | None = None
    fits: Callable[[Setting], bool] = lambda setting: True

    @property
    def group(self) -> str:
        """The part of the name before the stroke."""
        return self.name.split('/')[0]


def select(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Names that one of the patterns fits, in their order.

    A pattern is one of the shell, '*swin*', for the whole name or for what follows the
    stroke.  Raises ValueError for a pattern that fits none.
    """
    names = list(names)
    fit = {
        pattern: {
            name
            for name in names
            if fnmatch(name, pattern) or fnmatch(name.split('/')[1], pattern)
        }
        for pattern in patterns
    }
    for pattern, found in fit.items():
        if not found:
            listed = ', '.join(names)
            raise ValueError(f'--cases {pattern!r} fits no case; there are: {listed}')
    chosen = set().union(*fit.values())
    return [name for name in names if name in chosen]


def passes(
    forward: Callable[[], Tensor | Iterable[Tensor]],
    leaves: Iterable[Tensor],
    setting: Setting,
) -> Work:
    """A training step of `forward`, or a pass of inference, as the setting says.

    leaves: whose gradients are made anew in each step.
    """
    leaves = list(leaves)
    kind = torch.device(setting.device).type

    def autocast() -> torch.autocast:
        reduced = setting.dtype == 'bfloat16'
        return torch.autocast(kind, torch.bfloat16, enabled=reduced)

    def inference() -> None:
        with torch.no_grad(), autocast():
            forward()

    def training() -> None:
        for leaf in leaves:
            leaf.grad = None
        with autocast():
            outputs = tensors_of(forward())
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])

    return training if setting.mode == 'training' else inference


def prepare_network(model: nn.Module, setting: Setting) -> Prepared:
    """Random images through a network of maps or of anything else."""
    model.to(setting.device).train(setting.mode == 'training')
    run = torch.compile(model) if setting.compiled else model
    images = torch.randn(setting.batch, 3, *setting.size, device=setting.device)
    work = passes(lambda: run(images), model.parameters(), setting)
    return Prepared(work, model)
