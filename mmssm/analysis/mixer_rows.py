"""Rows of M for every mixer of a network on a picture: what its positions read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmssm.analysis import style
from mmssm.analysis.mixing import MIXERS, mixing_row
from mmssm.analysis.mixing_properties import share_nearby, spread
from mmssm.analysis.receptive_field import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECADES = 3  # of |M| in a picture
SPOTS = ((0.5, 0.5), (0.25, 0.75))  # of a picture's height and width


class MixerInput(NamedTuple):
    """A mixer with what it was given; x: (1, C, H, W)."""

    name: str
    layer: nn.Module
    x: Tensor


class Row(NamedTuple):
    """What one position reads, over all channels of a mixer.

    weights: (H, W), |M| of the position's row, its sum over the groups divided by the
    whole.  position: (row, column).  spread: mean distance in cells, weighted by |M|.
    nearby: share of |M| in the 3 x 3 around the position.  own: on the position itself.
    """

    weights: Tensor
    position: tuple[int, int]
    spread: float
    nearby: float
    own: float

    @property
    def largest_other(self) -> float:
        """Largest weight of another position; 0 where there is none."""
        others = self.weights.clone()
        others[self.position] = 0
        return others.max().item()


def mixer_inputs(model: nn.Module, run: Callable[[], object]) -> list[MixerInput]:
    """Mixers that run, in order, with their inputs; none that is part of another.

    run: calls the model on one picture.  A mixer that takes its norm along, as that of
    Spatial-Mamba does, gets its input behind the norm.
    """
    found: list[MixerInput] = []
    with _catching(model, found), evaluating(model), torch.no_grad():
        run()
    return found


def stages(inputs: Sequence[MixerInput]) -> list[list[MixerInput]]:
    """The mixers by the size of their maps, in the order in which sizes come."""
    groups: dict[torch.Size, list[MixerInput]] = {}
    for given in inputs:
        groups.setdefault(given.x.shape[2:], []).append(given)
    return [*groups.values()]


def row(
    given: MixerInput, spot: Sequence[float] = SPOTS[0], direction: str | None = None
) -> Row:
    """The row of M of a position, given as parts of the map's height and width.

    spot: (down, right), from 0 to below 1.  direction: see `mixing_matrix`.
    Raises ValueError for a spot outside of the map and as `mixing_matrix`.
    """
    if not all(0 <= part < 1 for part in spot):
        raise ValueError(f'spot is {tuple(spot)}; expected two numbers from 0 to 1')
    size = tuple(given.x.shape[2:])
    position = tuple(int(part * n) for part, n in zip(spot, size, strict=True))
    with torch.no_grad():
        found = mixing_row(given.layer, given.x, position, direction)
    weights = found[0].abs().double().cpu().sum(0)
    weights = weights / weights.sum()
    flat = weights.reshape(1, -1)
    place = torch.tensor([position[0] * size[1] + position[1]])
    return Row(
        weights,
        position,
        spread(flat, size, place).item(),
        share_nearby(flat, size, place).item(),
        weights[position].item(),
    )


def summary(rows: Mapping[str, Sequence[tuple[str, Row]]]) -> dict[str, object]:
    """Position, map, spread and share nearby of every row."""
    return {
        title: [
            {
                'mixer': name,
                'map': list(found.weights.shape),
                'position': found.position,
                'spread': found.spread,
                'nearby': found.nearby,
                'own': found.own,
            }
            for name, found in family
        ]
        for title, family in rows.items()
    }


def draw(
    image: Tensor,
    families: Mapping[str, Sequence[Sequence[tuple[str, Row]]]],
    spots: Sequence[Sequence[float]] = SPOTS,
) -> 'Figure':
    """A line for each family and spot: the picture, then a row of M for each block.

    image: (3, H, W), 0 to 1.  families: title -> for each spot the blocks, (name, row).
    Colours stand for |M| over the largest of another position, on a logarithmic scale:
    all of them may be small beside what a position keeps of itself.
    """
    lines = [
        (t, s, r) for t, f in families.items() for s, r in zip(spots, f, strict=True)
    ]
    columns = 1 + max(len(rows) for _, _, rows in lines)
    side = (style.WIDTH - 1.2) / columns * image.shape[1] / image.shape[2]
    high = len(lines) * (side + 0.6) + sum(map(style.title_height, families)) + 0.1
    made, axes = style.figure(len(lines), columns, height=high)
    before = None
    for places, (title, spot, rows) in zip(axes, lines, strict=True):
        style.show_picture(places[0], image, '' if title == before else title)
        before = title
        corner = [p * n for p, n in zip(spot, image.shape[1:], strict=True)]
        style.mark(places[0], corner)
        for place in places[len(rows) + 1 :]:
            place.set_axis_off()
        for place, (name, found) in zip(places[1:], rows, strict=False):
            drawn = style.show_decades(
                place, found.weights, DECADES, name, top=found.largest_other
            )
            style.mark(place, found.position)
            place.set_xlabel(
                f'itself {found.own:.1%}, 3×3 {found.nearby:.1%}\n'
                f'spread {found.spread:.2f} cells',
                fontsize=8,
            )
    style.decades_bar(made, drawn, axes, DECADES, '|M|, of other positions')
    return made


@contextmanager
def _catching(model: nn.Module, found: list[MixerInput]) -> Iterator[None]:
    """Put what mixers are given into `found` while the block runs."""
    running: list[nn.Module] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, given: tuple) -> None:
            if not running:
                x, *others = given
                norm = next((o for o in others if isinstance(o, nn.Module)), None)
                x = x if norm is None else norm(x)
                found.append(MixerInput(name, layer, x.detach()))
            running.append(layer)

        return hook

    def leave(*_: object) -> None:
        running.pop()

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, tuple(MIXERS)):
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
