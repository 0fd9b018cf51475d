"""No figure of a case that does not compute what its definition says."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmssm.ops import dispatch
from tools.benchmarks.case import Case
from tools.benchmarks.measure import tensors_of

LIMIT = 1e-10
SIZE = (37, 45)  # of images, odd, and more than one position at stride 32


def red_cases(cases: Iterable[Case], device: str) -> list[str]:
    """Print the error of each case on the device; return those over the limit."""
    red = []
    for case in cases:
        if case.gate is None:
            print(f'  peer   {case.name}: has none of our operators, not compared')
            continue
        error = case.gate(device)
        passed = error <= LIMIT  # false for what is not a number
        print(f'  {"passed" if passed else "FAILED"} {case.name}: error {error:.1e}')
        if not passed:
            red.append(case.name)
    return red


@contextmanager
def definitions() -> Iterator[None]:
    """Every op computes by its naive twin, whatever backend is asked for."""
    before = dispatch.registered()
    for op, known in before.items():
        (naive,) = (i for i in known if i.name == 'naive')
        stand_ins = [dispatch.Implementation(i.name, naive.run) for i in known]
        dispatch.register(op, stand_ins)
    try:
        yield
    finally:
        for op, known in before.items():
            dispatch.register(op, known)


def network_error(
    model: nn.Module, device: str = 'cpu', size: tuple[int, int] = SIZE
) -> float:
    """Of a backbone against itself with the naive twins of the ops.

    In training, with gradients, and in inference from the third image on, for which
    layers may have kept something.
    """
    torch.manual_seed(0)
    model = copy.deepcopy(model).to(device, torch.float64)
    move_zeros(model)
    image = torch.randn(2, 3, *size, dtype=torch.float64).to(device).requires_grad_()
    leaves = [image, *(p for p in model.parameters() if p.requires_grad)]
    model.train()
    fast = passed_back(lambda: model(image), leaves)
    with definitions():
        naive = passed_back(lambda: model(image), leaves)
    return worst([largest_error(fast, naive), _inference_error(model, image)])


def move_zeros(model: nn.Module) -> None:
    """Move parameters that start at zero, so that none hides what it multiplies."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)


def _inference_error(model: nn.Module, image: Tensor) -> float:
    model.eval()
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for _ in range(3):
            fast = tensors_of(model(image))
        with definitions():
            return _relative(fast, tensors_of(fresh(image)))


def passed_back(
    forward: Callable[[], Tensor | Iterable[Tensor]], leaves: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of the leaves for fixed random ones of the outputs."""
    outputs = tensors_of(forward())
    generator = torch.Generator().manual_seed(1)
    seeds = [
        torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)
        for y in outputs
    ]
    grads = torch.autograd.grad(outputs, leaves, seeds)
    return [y.detach() for y in outputs], list(grads)


def largest_error(
    fast: tuple[list[Tensor], list[Tensor]], naive: tuple[list[Tensor], list[Tensor]]
) -> float:
    """Of outputs and of gradients, each relative to the largest of its kind."""
    return worst([_relative(*pair) for pair in zip(fast, naive, strict=True)])


def worst(errors: Sequence[float]) -> float:
    """The largest; not a number if one of them is none, which max() may pass over."""
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _relative(ours: list[Tensor], exact: list[Tensor]) -> float:
    pairs = list(zip(ours, exact, strict=True))
    scale = worst([y.abs().max().item() for y in exact])
    error = worst([(x - y).abs().max().item() for x, y in pairs])
    return error / max(scale, 1e-300)
