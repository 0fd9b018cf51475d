"""A confusion matrix as a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmssm.analysis.style import figure
from mmssm.openmmlab.reporting.style import styled

WRITTEN, NAMED = 20, 60  # classes, up to which there are numbers and names
SMALLEST = 0.5  # per cent that are written


def shares(confusion: np.ndarray) -> np.ndarray:
    """Each row in per cent of its sum; nan for rows of nothing."""
    sums = confusion.sum(1, keepdims=True).astype(float)
    with np.errstate(invalid='ignore'):
        return 100 * confusion / sums


def draw(
    labels: Sequence[str], confusion: np.ndarray, of: str, dark: bool = False
) -> Figure:
    """Rows: the truth; columns: what was found; in per cent of each row.

    labels: of rows and columns alike.  confusion: (N, N) counts.  of: what is counted.
    """
    values = shares(confusion)
    count = len(labels)
    side = float(np.clip(0.42 * count + 1.6, 4.2, 9.0))
    with styled(dark) as tones:
        made, ((ax,),) = figure(height=side, width=side + 0.9)
        ax.grid(visible=False)
        amount = tones.amount.with_extremes(bad=(0.5, 0.5, 0.5, 0.15))
        image = ax.imshow(values, cmap=amount, vmin=0, vmax=100, aspect='equal')
        ax.spines[:].set_visible(False)
        ax.set_title(f'{of}, % of the truth')
        ax.set_xlabel('prediction')
        ax.set_ylabel('truth')
        ax.tick_params(length=0)
        if count <= NAMED:
            size = float(np.clip(300 / count, 4, 9))
            ax.set_xticks(range(count), labels, rotation=90, fontsize=size)
            ax.set_yticks(range(count), labels, fontsize=size)
        if count <= WRITTEN:
            _write(ax, values, image)
        bar = made.colorbar(image, ax=ax, fraction=0.04, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
    return made


def _write(ax: object, values: np.ndarray, image: object) -> None:
    """A number in each cell, in black or white, whichever can be read."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value) or value < SMALLEST:
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        bright = 0.3 * red + 0.59 * green + 0.11 * blue
        ax.text(
            column,
            row,
            f'{value:.0f}',
            ha='center',
            va='center',
            color='black' if bright > 0.5 else 'white',
            fontsize=8,
        )


def confused(
    labels: Sequence[str], confusion: np.ndarray, count: int = 10
) -> list[tuple[str, str, int]]:
    """(truth, found, how many) of the pairs that are confused most often."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind='stable')[:count]
    places = (np.unravel_index(i, wrong.shape) for i in order)
    return [(labels[i], labels[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]
