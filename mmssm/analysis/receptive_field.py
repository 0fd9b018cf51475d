"""What of a picture a backbone looks at: its effective receptive field.

For the position p in the middle of an output map y, each pixel q contributes

    random     c_q = mean over pictures of sum_rgb |d (v . y_p) / d x_q|,  v ~ N(0, I)
    published  c_q = sum over pictures of sum_rgb max(d (sum_c relu y_p,c) / d x_q, 0)

(effective receptive field: arXiv 1701.04128; the published form is that of RepLKNet,
arXiv 2203.06717, which VMamba, arXiv 2401.10166, follows.)

The plain sum over the channels of y has a gradient of exactly zero behind a LayerNorm
over the channels, for that fixes the sum.  A random v for each picture sees every
output: E |v . J_q| = sqrt(2 / pi) |J_q|, so that c_q measures the whole column of the
Jacobian.  Each v is drawn from the seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmssm.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
FORMS = ('random', 'published')
DECADES = 3  # of contributions in a picture


class Area(NamedTuple):
    """The smallest centred square with a share of the contributions.

    side: its length in pixels.  ratio: its part of the picture's area, where a square
    that reaches beyond the picture ends at its border.
    """

    side: int
    ratio: float


class Field(NamedTuple):
    """A receptive field with its title in a picture; contribution: (H, W)."""

    title: str
    contribution: Tensor


def receptive_field(
    backbone: nn.Module,
    images: Tensor,
    *,
    output: int = -1,
    form: str = 'random',
    seed: int = 0,
) -> Tensor:
    """Contribution of each pixel to the middle of an output; see above.

    backbone: (1, C, H, W) -> a map (1, D, h, w), or a tuple or list of maps.
    images: (B, C, H, W), one after the other.  output: which of the maps.  Of a map
    with an odd number of rows or columns the middle cell is up to half a stride beside
    the middle of the picture, differently for every network: take sizes that twice the
    stride divides, such as 512 for a stride of 32.
    Returns (H, W), float64.

    Raises ValueError for another form, for an output that is not there or no map, and
    where the output does not depend on the picture.
    """
    if form not in FORMS:
        raise ValueError(f'form is {form!r}; expected one of {", ".join(FORMS)}')
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(images.shape[2:], dtype=torch.float64)
    with evaluating(backbone), torch.enable_grad():
        for image in images.split(1):
            image = image.detach().requires_grad_()
            y = _map(backbone(image), output)
            middle = y[0, :, y.shape[2] // 2, y.shape[3] // 2]
            if form == 'random':
                weights = torch.randn(len(middle), generator=generator)
                seen = (middle.float() * weights.to(middle.device)).sum()
            else:
                seen = middle.relu().sum()
            gradient = _gradient(seen, image)
            part = gradient.abs() / len(images) if form == 'random' else gradient.relu()
            total += part.sum(0).double().cpu()
    if not total.any():
        raise ValueError(
            f'no pixel contributes to output {output} of {type(backbone).__name__}'
            + ("; form='random' sees more" if form == 'published' else '')
        )
    return total


def areas(
    contribution: Tensor, thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, Area]:
    """Smallest centred square that holds each share of the contributions.

    contribution: (H, W), not negative; its middle is (H // 2, W // 2).
    """
    height, width = contribution.shape
    down = (torch.arange(height) - height // 2).abs()
    right = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(down[:, None], right).flatten()  # steps to the middle
    values = contribution.double().cpu().flatten()
    inside = torch.bincount(ring, values).cumsum(0) / values.sum()
    covered = torch.bincount(ring).cumsum(0) / ring.numel()
    found = {}
    for threshold in thresholds:
        # rounding must not ask for one ring more
        reach = int((inside < threshold - 1e-9).sum())
        found[threshold] = Area(2 * reach + 1, covered[reach].item())
    return found


def published_score(contribution: Tensor) -> Tensor:
    """log10(A + 1) over its largest value, of which RepLKNet's shares are taken.

    It grows with the number of pictures and with the scale of the output; shares of the
    contributions themselves do not.
    """
    score = torch.log10(contribution + 1)
    return score / score.max()


def noise(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Pictures of independent N(0, 1), for networks that have not been trained."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator)


def summary(field: Field, form: str) -> dict[str, object]:
    """Numbers of a field: its size, and side and ratio of area for each share."""
    shown = {'contribution': field.contribution}
    if form == 'published':
        shown['score'] = published_score(field.contribution)
    return {
        'title': field.title,
        'size': list(field.contribution.shape),
        **{
            f'{name}_within': {
                str(share): area._asdict() for share, area in areas(values).items()
            }
            for name, values in shown.items()
        },
    }


def draw(rows: Mapping[str, Sequence[Field]], form: str) -> 'Figure':
    """Fields side by side, a row for each size, with the squares of half and 99 %."""
    count = max(map(len, rows.values()))
    width = style.WIDTH if count > 2 else 1.3 + 2.8 * count
    side = (width - 1.3) / count
    named = _named(rows)
    high = sum(
        side * max(map(_aspect, fields))
        + 0.5
        + style.title_height(*(field.title for field in fields))
        for fields in named.values()
    )
    made, axes = style.figure(len(rows), count, height=high, width=width)
    for (size, fields), places in zip(named.items(), axes, strict=True):
        for place in places[len(fields) :]:
            place.set_axis_off()
        for field, place in zip(fields, places, strict=False):
            drawn = _draw_one(place, field)
        places[0].set_ylabel(size)
    style.decades_bar(made, drawn, axes, DECADES, f'contribution ({form})')
    return made


def _named(rows: Mapping[str, Sequence[Field]]) -> dict[str, list[Field]]:
    """The fields, without titles that stand above them already."""
    found: dict[str, list[Field]] = {}
    above: list[str] = []
    for size, fields in rows.items():
        titles = [field.title for field in fields]
        same = titles == above
        found[size] = [f._replace(title='') for f in fields] if same else [*fields]
        above = titles
    return found


def _draw_one(place: 'Axes', field: Field) -> 'AxesImage':
    drawn = style.show_decades(place, field.contribution, DECADES, field.title)
    found = areas(field.contribution)
    for share, ink in ((0.5, style.COLOURS[1]), (0.99, style.INK)):
        _frame(place, field.contribution.shape, found[share].side, ink)
    parts = [f'{share:.0%} in {_percent(area.ratio)}' for share, area in found.items()]
    text = f'{", ".join(parts[:2])}\n{", ".join(parts[2:])}'
    place.set_xlabel(text, color=style.INK, fontsize=8)
    return drawn


def _percent(ratio: float) -> str:
    return f'{ratio:.1%}' if ratio >= 0.01 else f'{ratio:.2%}'


def _frame(place: 'Axes', shape: Sequence[int], side: int, ink: str) -> None:
    """The centred square of this side, up to the border of the picture."""
    ranges = [
        (max(n // 2 - side // 2, 0), min(n // 2 + side // 2 + 1, n)) for n in shape
    ]
    corner = [start for start, _ in ranges]
    style.frame(place, corner, [end - start for start, end in ranges], ink)


def _aspect(field: Field) -> float:
    height, width = field.contribution.shape
    return height / width


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and back in the mode of each module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _map(outputs: object, index: int) -> Tensor:
    maps = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not -len(maps) <= index < len(maps):
        raise ValueError(f'output is {index}; the backbone gives {len(maps)} maps')
    y = maps[index]
    if not isinstance(y, Tensor) or y.dim() != 4:
        shape = tuple(getattr(y, 'shape', ()))
        raise ValueError(
            f'output {index} of the backbone has shape {shape}; expected a map '
            '(B, C, H, W)'
        )
    return y


def _gradient(seen: Tensor, image: Tensor) -> Tensor:
    """(C, H, W), zero where there is no way from the picture."""
    if not seen.requires_grad:
        return torch.zeros_like(image[0])
    (gradient,) = torch.autograd.grad(seen, image, allow_unused=True)
    return torch.zeros_like(image[0]) if gradient is None else gradient[0]
