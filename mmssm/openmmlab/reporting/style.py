"""The package's look of figures, and its dark twin for pages that are read at night."""

import contextlib
import io
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mmssm.analysis import style

PAPER, LIGHT_INK, LINE = '#161b22', '#e6edf3', '#30363d'
# those of the light look that vanish on dark paper, brighter
COLOURS = (*style.COLOURS[:6], '#9aa4b0')
COLOURS_DARK = ('#4ba3e3', '#ff8a3d', *COLOURS[2:])
DARK = {
    'axes.edgecolor': '#8b949e',
    'axes.facecolor': PAPER,
    'axes.labelcolor': LIGHT_INK,
    'axes.titlecolor': LIGHT_INK,
    'figure.facecolor': PAPER,
    'grid.color': LINE,
    'legend.labelcolor': LIGHT_INK,
    'savefig.facecolor': PAPER,
    'text.color': LIGHT_INK,
    'xtick.color': '#8b949e',
    'xtick.labelcolor': LIGHT_INK,
    'ytick.color': '#8b949e',
    'ytick.labelcolor': LIGHT_INK,
}


class Tones(NamedTuple):
    """Of a look: the text's colour, and a map of colours from nothing to much."""

    ink: str
    amount: object


@contextlib.contextmanager
def styled(dark: bool = False) -> Iterator[Tones]:
    """Figures that are made and written inside of it have one look."""
    with style.styled():
        shared = {
            'axes.grid': True,
            'axes.titlelocation': 'left',
            'axes.titleweight': 'bold',
            'text.parse_math': False,  # names of classes may hold a $
        }
        with mpl.rc_context({**shared, **(DARK if dark else {})}):
            ink = mpl.rcParams['text.color']
            yield Tones(ink, _night() if dark else mpl.colormaps[style.AMOUNT])


def colour(index: int, dark: bool = False) -> str:
    """Of a line."""
    return (COLOURS_DARK if dark else COLOURS)[index % len(COLOURS)]


def png(figure: Figure) -> bytes:
    """The file of a figure that was made inside of `styled`."""
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=style.DPI)
    return content.getvalue()


def _night() -> LinearSegmentedColormap:
    stops = (PAPER, '#1f4e79', '#2f8fc4', '#a6e3e9')
    return LinearSegmentedColormap.from_list('night', stops)
