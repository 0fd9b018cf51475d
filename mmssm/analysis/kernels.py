"""Kernels that a network has learned: of its 2-D SSMs and of its state fusions."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmssm.analysis import style
from mmssm.layers import SSM2D, StateFusion
from mmssm.ops import merge_kernels, ssm2d_support

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# from the impulse: rows down or up, columns right or left
WAYS = {'down, right': (1, 1), 'up, right': (-1, 1), 'down, left': (1, -1)}
WAYS['up, left'] = (-1, -1)


class FilterKernels(NamedTuple):
    """Kernels of a 2-D SSM on maps of one size.

    kernels: direction -> (C, H, W), as the impulse at [0, 0] spreads that way.
    support: for each channel the (height, width) beyond which leaving out all taps, of
    all directions, changes no output by more than tolerance * max |x|.
    """

    kernels: dict[str, Tensor]
    support: list[tuple[int, int]]
    tolerance: float


def filter_kernels(
    layer: SSM2D, size: tuple[int, int], tolerance: float = 1e-2
) -> FilterKernels:
    """Kernels and their support bound (`ops.ssm2d_support`) on maps (H, W)."""
    with torch.no_grad():
        A, B, C = layer.coefficients(layer.A.dtype)
        found = layer.kernels(*size)
        bounds = ssm2d_support(A, B, C, size, tolerance)
    ways = [*WAYS] if layer.directions == 4 else ['down, right', 'up, left']
    support = [bounds[e % len(bounds)] for e in range(layer.channels)]
    return FilterKernels(dict(zip(ways, found, strict=True)), support, tolerance)


def turned(kernel: Tensor, way: str) -> Tensor:
    """The kernel (..., H, W) as it lies in a picture; its origin moves to a corner."""
    flips = [axis for axis, step in zip((-2, -1), WAYS[way], strict=True) if step < 0]
    return kernel.flip(flips)


def fusion_kernel(layer: StateFusion) -> Tensor:
    """The one kernel of all dilations (C, S, S), S = 2 max(dilations) + 1."""
    with torch.no_grad():
        taps = layer.kernels.unsqueeze(2)
        return merge_kernels(taps, layer.alpha, layer.dilations).squeeze(1)


def find(
    model: nn.Module, kind: type[nn.Module], pattern: str = '*'
) -> dict[str, nn.Module]:
    """Layers of a kind by the names in the model that match a shell pattern."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kind) and fnmatchcase(name, pattern)
    }


def filter_summary(found: FilterKernels) -> dict[str, object]:
    """For each channel the support and how far the taps lie from the impulse."""
    distances = {}
    for way, kernels in found.kernels.items():
        height, width = kernels.shape[1:]
        steps = torch.hypot(
            torch.arange(height)[:, None].double(), torch.arange(width).double()
        )
        weight = kernels.double().abs().cpu()
        mean = (weight * steps).sum((1, 2)) / weight.sum((1, 2))
        distances[way] = mean
    return {
        'tolerance': found.tolerance,
        'support': found.support,
        'mean_distance': distances,
    }


def draw_filter(name: str, found: FilterKernels, channels: Sequence[int]) -> 'Figure':
    """A row for each direction, a column for each channel, the support outlined.

    Colours stand for the cube root of a tap over the channel's largest: distant taps
    would be white otherwise.
    """
    rows, columns = len(found.kernels), len(channels)
    height, width = next(iter(found.kernels.values())).shape[1:]
    side = (style.WIDTH - 0.4) / columns
    high = rows * (side * height / width + 0.03) + 0.55
    made, axes = style.figure(rows, columns, height=high)
    for column, channel in enumerate(channels):
        largest = max(k[channel].abs().max() for k in found.kernels.values())
        for places, (way, kernels) in zip(axes, found.kernels.items(), strict=True):
            place = places[column]
            taps = turned(kernels[channel] / largest, way)
            title = f'channel {channel}' if places is axes[0] else ''
            style.show(place, _root(taps), title, signed=True, top=1)
            _outline(place, found.support[channel], (height, width), way)
            if column == 0:
                place.set_ylabel(way)
    made.suptitle(
        f'{name or "2-D SSM"}, maps of {height} x {width}; outlined: what a tolerance '
        f'of {found.tolerance:g} keeps'
    )
    return made


def draw_fusions(kernels: dict[str, Tensor], channels: Sequence[int]) -> 'Figure':
    """A row for each fusion kernel (C, S, S): some channels, then the mean of all."""
    rows, columns = len(kernels), len(channels) + 1
    high = rows * ((style.WIDTH - 0.6) / columns + 0.06) + 0.6
    made, axes = style.figure(rows, columns, height=high)
    for places, (name, kernel) in zip(axes, kernels.items(), strict=True):
        chosen = [*kernel[list(channels)], kernel.mean(0)]
        titles = [f'channel {c}' for c in channels] + ['mean of all']
        top = float(torch.stack(chosen).abs().max())
        for place, taps, title in zip(places, chosen, titles, strict=True):
            above = title if places is axes[0] else ''
            style.show(place, taps, above, signed=True, top=top)
        places[0].set_ylabel(f'{name}\n± {top:.2g}')
    made.suptitle('fused kernels of the dilations; each row has a scale of its own')
    return made


def _root(values: Tensor) -> Tensor:
    return values.sign() * values.abs() ** (1 / 3)


def _outline(
    place: object, support: tuple[int, int], size: tuple[int, int], way: str
) -> None:
    corner = [
        0 if step > 0 else whole - part
        for step, whole, part in zip(WAYS[way], size, support, strict=True)
    ]
    style.frame(place, corner, support, style.INK)
