"""One look for every picture of the package: light, legible at a README's width.

Pictures are drawn in a figure of their own, without pyplot, so that no window opens,
nothing stays in memory and threads do not meet.  matplotlib is imported when one is
drawn.
"""

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmssm.weights import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

WIDTH = 9.0  # inches; at DPI the 990 pixels that a README shows
DPI = 110
INK, QUIET, FAINT = '#1f2933', '#66727f', '#dfe3e8'
# Told apart by colour-blind eyes (Okabe and Ito, 2008), dark ones first.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#404040')
AMOUNT = 'YlGnBu'  # nothing is light, much is dark
SIGNED = 'RdBu_r'  # blue below zero, white, red above
HEAT = 'turbo'  # over a photograph
STYLE = {
    'figure.facecolor': 'white',
    'figure.dpi': DPI,
    'figure.constrained_layout.use': True,
    'figure.titlesize': 11,
    'font.family': 'sans-serif',
    'font.sans-serif': ['DejaVu Sans'],  # comes with matplotlib: the same everywhere
    'font.size': 9,
    'axes.titlesize': 9,
    'axes.labelsize': 9,
    'axes.titlecolor': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': QUIET,
    'axes.linewidth': 0.8,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': False,
    'grid.color': FAINT,
    'grid.linewidth': 0.8,
    'lines.linewidth': 1.6,
    'text.color': INK,
    'xtick.color': QUIET,
    'ytick.color': QUIET,
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'image.interpolation': 'nearest',
    'savefig.facecolor': 'white',
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside of it, in this look; nothing else in the process changes."""
    import matplotlib
    from matplotlib.rcsetup import cycler

    with matplotlib.rc_context({**STYLE, 'axes.prop_cycle': cycler(color=COLOURS)}):
        yield


def figure(
    rows: int = 1, columns: int = 1, *, height: float, width: float = WIDTH
) -> tuple['Figure', list[list['Axes']]]:
    """A figure and its axes, rows of columns; height and width in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False).tolist()


def title_height(*titles: str) -> float:
    """Inches that the longest of some titles needs above its axes."""
    return 0.17 * max(title.count('\n') + 1 for title in titles) + 0.03


def picture(axes: 'Axes', title: str = '') -> None:
    """Axes that hold an image: a thin frame, no numbers."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT, linewidth=0.8)
    axes.set_title(title)


def show(
    axes: 'Axes',
    values: Tensor,
    title: str = '',
    *,
    signed: bool = False,
    top: float | None = None,
) -> 'AxesImage':
    """A map (H, W) of amounts from 0, or of signed numbers around 0.

    top: value of the darkest colour, by default the largest of the map.
    """
    values = values.detach().double().cpu()
    top = top or float(values.abs().nan_to_num(0).max()) or 1.0
    drawn = axes.imshow(
        values.numpy(),
        cmap=SIGNED if signed else AMOUNT,
        vmin=-top if signed else 0.0,
        vmax=top,
        aspect='equal',
    )
    picture(axes, title)
    return drawn


def show_decades(
    axes: 'Axes',
    values: Tensor,
    decades: int,
    title: str = '',
    *,
    top: float | None = None,
) -> 'AxesImage':
    """A map (H, W) of amounts over top or its largest, on a logarithmic scale."""
    values = values.detach().double().cpu()
    top = top or float(values.max())
    drawn = axes.imshow(
        (values / top).clamp(min=1e-30).log10().numpy(),
        cmap=AMOUNT,
        vmin=-decades,
        vmax=0,
        aspect='equal',
        interpolation='antialiased',
    )
    picture(axes, title)
    return drawn


def decades_bar(
    made: 'Figure',
    drawn: 'AxesImage',
    axes: Sequence[Sequence['Axes']],
    decades: int,
    label: str,
) -> None:
    """The scale of `show_decades`, beside all axes."""
    places = [place for row in axes for place in row]
    shrink = min(1.0, 2.4 / made.get_figheight())
    bar = made.colorbar(drawn, ax=places, shrink=shrink, aspect=18, pad=0.015)
    names = ['largest', *(f'1/{10**n:,}' for n in range(1, decades + 1))]
    bar.set_ticks(range(0, -decades - 1, -1), labels=names)
    bar.outline.set_visible(False)
    bar.set_label(label)


def show_picture(axes: 'Axes', image: Tensor, title: str = '') -> None:
    """A picture (3, H, W) or (H, W, 3): uint8, or floats from 0 to 1."""
    image = image.detach().cpu()
    if image.shape[0] == 3 and image.shape[-1] != 3:
        image = image.permute(1, 2, 0)
    axes.imshow(image.numpy(), aspect='equal')
    picture(axes, title)


def blend(image: Tensor, heat: Tensor, strength: float = 0.7) -> Tensor:
    """A picture (3, H, W), 0 to 1, under a map (H, W), 0 to 1, in the colours of HEAT.

    The colour covers as much as there is heat, at most `strength`.
    """
    import matplotlib

    heat = heat.detach().double().cpu().clamp(0, 1)
    colours = torch.from_numpy(matplotlib.colormaps[HEAT](heat.numpy())[..., :3])
    cover = heat * strength
    shown = image.detach().double().cpu()
    return shown * (1 - cover) + colours.permute(2, 0, 1) * cover


def mark(axes: 'Axes', position: Sequence[int], colour: str = COLOURS[1]) -> None:
    """A ring around (row, column) of the map that the axes show."""
    row, column = position
    for width, ink in ((2.6, 'white'), (1.2, colour)):
        axes.plot(
            column,
            row,
            marker='o',
            markersize=7,
            markerfacecolor='none',
            markeredgecolor=ink,
            markeredgewidth=width,
        )


def frame(
    axes: 'Axes', corner: Sequence[float], size: Sequence[float], colour: str
) -> None:
    """An outline around the cells from corner (row, column) on, of size (h, w)."""
    from matplotlib.patches import Rectangle

    (top, left), (height, width) = corner, size
    place = (left - 0.5, top - 0.5)
    for line, ink in ((2.4, 'white'), (1.2, colour)):
        outline = Rectangle(place, width, height, fill=False, ec=ink, lw=line)
        axes.add_patch(outline)


def write_figure(path: str | os.PathLike, made: 'Figure') -> None:
    """Write a figure as PNG, whole."""
    buffer = io.BytesIO()
    made.savefig(buffer, format='png', dpi=DPI)
    write_whole(path, buffer.getvalue())


def write_numbers(path: str | os.PathLike, numbers: Mapping[str, object]) -> None:
    """Write numbers, lists, tensors and names as JSON, whole; nan becomes null."""
    text = json.dumps(_plain(numbers), indent=1, allow_nan=False)
    write_whole(path, f'{text}\n'.encode())


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        value = value.detach().cpu().tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f'{value:.6g}') if abs(value) < float('inf') else None
    return value
