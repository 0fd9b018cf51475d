"""Which parts of a map speak for an answer: Grad-CAM and Eigen-CAM.

    Grad-CAM   relu(sum_c a_c A_c),  a_c = mean over positions of d s / d A_c
    HiResCAM   relu(sum_c (d s / d A_c) A_c), at each position its own gradient
    Eigen-CAM  relu(A v),  v the first principal direction of the channels
(arXiv 1610.02391, equations 1 and 2; arXiv 2011.08891; arXiv 2008.00299.)

A: (C, H, W), a map of the backbone.  s: any number that depends on it: the score of a
box, logits of a mask or of pixels.  Grad-CAM asks which channels matter and shows them
everywhere; of a single box or pixel, whose gradient is local, HiResCAM tells where it
comes from.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


GRAD_CAM, HIRES_CAM = METHODS = ('grad-cam', 'hires-cam')


class Panel(NamedTuple):
    """A picture with heat (H, W) over it, from 0 to 1, or without.

    outline: (top, left, height, width) of what the heat belongs to.
    image: (3, H, W), another one than the others have.
    """

    title: str
    heat: Tensor | None = None
    outline: tuple[float, float, float, float] | None = None
    note: str = ''
    image: Tensor | None = None


def gradient_cams(
    maps: Sequence[Tensor], score: Tensor, method: str = GRAD_CAM
) -> list[Tensor]:
    """Grad-CAM or HiResCAM of each map: (1, C, H, W) -> (H, W), not normalised.

    The graph stays, so that further scores can be asked.
    Raises ValueError for another method, and for a score that does not depend on any of
    the maps.
    """
    if method not in METHODS:
        raise ValueError(f'method is {method!r}; expected one of {", ".join(METHODS)}')
    if not score.requires_grad:
        raise ValueError('the score has no gradient: it was made without one')
    gradients = torch.autograd.grad(
        score, list(maps), retain_graph=True, allow_unused=True
    )
    if all(gradient is None for gradient in gradients):
        raise ValueError('the score does not depend on the maps')
    found = []
    for values, gradient in zip(maps, gradients, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(values)
        weights = gradient[0].double()
        if method == GRAD_CAM:
            weights = weights.mean((1, 2), keepdim=True)
        found.append((weights * values[0].detach().double()).sum(0).relu().cpu())
    return found


def eigen_cam(values: Tensor) -> Tensor:
    """Eigen-CAM of a map: (1, C, H, W) -> (H, W), without gradients or classes.

    Centred, the positions of a map have a first direction, whose sign says nothing; it
    is taken as that of the longer tail, since what stands out covers less than the
    rest.
    """
    rows = values[0].detach().double().cpu().flatten(1).T
    rows = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    along = rows @ directions[0]
    if along.pow(3).sum() < 0:
        along = -along
    return along.relu().unflatten(0, values.shape[2:])


def together(cams: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Several maps at the size of the input, each by its largest value, averaged.

    The result is divided by its largest value; zeros stay zeros.
    """
    enlarged = [
        F.interpolate(scaled(c)[None, None], size, mode='bilinear')[0, 0] for c in cams
    ]
    return scaled(torch.stack(enlarged).mean(0))


def scaled(heat: Tensor) -> Tensor:
    """By its largest value; zeros stay zeros."""
    top = heat.max()
    return heat / top if top > 0 else heat


def share_inside(heat: Tensor, region: Tensor) -> float:
    """Part of the heat in a region (H, W) of booleans; nan without any heat.

    (The energy-based pointing game of Score-CAM, arXiv 1910.01279.)
    """
    return ((heat * region).sum() / heat.sum()).item()


def draw(image: Tensor, rows: Sequence[tuple[str, Sequence[Panel | None]]]) -> 'Figure':
    """A row of panels for each method; image: (3, H, W), 0 to 1."""
    columns = max(len(panels) for _, panels in rows)
    height, width = image.shape[1:]
    wide = style.WIDTH if columns > 2 else 3.2 * columns
    side = (wide - 0.4) / columns * height / width
    high = sum(
        side + 0.3 + style.title_height(*(p.title for p in panels if p))
        for _, panels in rows
    )
    made, axes = style.figure(len(rows), columns, height=high, width=wide)
    for (name, panels), places in zip(rows, axes, strict=True):
        for place in places[len(panels) :]:
            place.set_axis_off()
        for panel, place in zip(panels, places, strict=False):
            if panel is None:
                place.set_axis_off()
            else:
                _draw_one(place, panel, image)
        places[min(1, columns - 1)].set_ylabel(name)
    return made


def _draw_one(place: 'Axes', panel: Panel, image: Tensor) -> None:
    shown = image if panel.image is None else panel.image
    if panel.heat is not None:
        shown = style.blend(shown, panel.heat)
    style.show_picture(place, shown, panel.title)
    place.set_xlabel(panel.note, fontsize=8)
    if panel.outline is not None:
        top, left, high, across = panel.outline
        style.frame(place, (top, left), (high, across), style.INK)
