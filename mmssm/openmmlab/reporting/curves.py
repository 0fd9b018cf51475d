"""Learning curves of runs, from the scalars that they write while they train."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from mmssm.analysis.style import figure
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.reporting.style import colour, styled

FILE = 'vis_data/scalars.json'
COUNTERS = ('step', 'iter', 'epoch')
TIMES = ('time', 'data_time')
PANELS, LINES = 18, 8  # more are in the JSON alone


class Series(NamedTuple):
    """Values of one quantity.  steps: iterations that they belong to."""

    steps: list[int]
    values: list[float]


class Run(NamedTuple):
    """What a run has logged.

    training, validation: series by name, as the log has them.  notes: what was left
    out, and losses that are not finite.
    """

    name: str
    training: dict[str, Series]
    validation: dict[str, Series]
    notes: list[str]

    def as_json(self) -> dict:
        """Numbers for a JSON file; those that are not finite become None."""
        return {
            'name': self.name,
            'training': _plain(self.training),
            'validation': _plain(self.validation),
            'notes': self.notes,
        }


class _Row(NamedTuple):
    step: int
    validation: bool
    values: Mapping[str, float]


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """The scalars of a work_dir, of all its starts joined.

    Where a later start repeats iterations, it replaces them.  A metric is placed at
    the last iteration that was logged before it, or at its own step if that is later.
    Raises UserError where there are none.
    """
    place = Path(folder).expanduser()
    files, notes = _files(place), []
    rows: list[_Row] = []
    for file in files:
        added = _rows(file, place, notes)
        first = next((row.step for row in added if not row.validation), None)
        if first is not None and any(row.step >= first for row in rows):
            last = max(row.step for row in rows)
            rows = [row for row in rows if row.step < first]
            notes.append(
                f'{_short(file, place)} begins at iteration {first} and replaces what '
                f'was logged before up to {last}'
            )
        rows += added
    if not rows:
        raise UserError(f'{", ".join(map(str, files))}: no line that can be read')
    training = _series(row for row in rows if not row.validation)
    validation = _series(row for row in rows if row.validation)
    notes += _not_finite(training)
    return Run(name or place.resolve().name, training, validation, notes)


def names(folders: Sequence[str | Path]) -> list[str]:
    """A name for each folder: so much of the end of its path as tells them apart."""
    parts = [Path(folder).resolve().parts for folder in folders]
    count = 1
    while len({p[-count:] for p in parts}) < len({*parts}):
        count += 1
    return ['/'.join(p[-count:]) for p in parts]


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f'there is no folder of a run at {place}')
    found = sorted(place.glob(f'*/{FILE}'))
    found = found or [p for p in (place / FILE, place / 'scalars.json') if p.is_file()]
    if not found:
        raise UserError(
            f'{place} has no {FILE} in it or in a folder of it; give the work_dir of a '
            'training whose visualizer has a LocalVisBackend'
        )
    return found


def _rows(file: Path, place: Path, notes: list[str]) -> list[_Row]:
    """The rows of a file in their order; says which lines are left out."""
    rows, damaged, last = [], [], 0
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    for number, line in enumerate(lines, 1):
        values = _numbers(line)
        if values is None:
            damaged.append(number)
        elif values:
            step = int(values.get('step', values.get('iter', 0)))
            validation = 'iter' not in values
            last = max(step, last) if validation else step
            rows.append(_Row(last, validation, values))
    if damaged:
        which = ', '.join(map(str, damaged[:5])) + ', …' * (len(damaged) > 5)
        kind = 'lines' if len(damaged) > 1 else 'line'
        end = ' (the last: half written)' if damaged == [len(lines)] else ''
        notes.append(f'{_short(file, place)}: {kind} {which} left out, damaged{end}')
    return rows


def _numbers(line: str) -> dict[str, float] | None:
    """The numbers of a line; None for one that is damaged, {} for an empty one."""
    if not line.strip():
        return {}
    try:
        content = json.loads(line)
        steps = [content[key] for key in COUNTERS if key in content]
        if not all(isinstance(step, int | float) for step in steps):
            return None
        return {
            key: float(value)
            for key, value in content.items()
            if isinstance(value, int | float)
        }
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None


def _series(rows: Iterable[_Row]) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for row in rows:
        for key, value in row.values.items():
            if key not in COUNTERS and not (row.validation and key in TIMES):
                steps, values = found.setdefault(key, Series([], []))
                steps.append(row.step)
                values.append(value)
    return found


def _not_finite(training: Mapping[str, Series]) -> list[str]:
    notes = []
    for key, (steps, values) in training.items():
        bad = [s for s, v in zip(steps, values, strict=True) if not math.isfinite(v)]
        if bad:
            more = f' and {len(bad) - 3} more' if len(bad) > 3 else ''
            where = ', '.join(map(str, bad[:3]))
            notes.append(f'{key} is not finite at iteration {where}{more}')
    return notes


def _plain(series: Mapping[str, Series]) -> dict:
    return {
        key: {
            'iteration': steps,
            'value': [value if math.isfinite(value) else None for value in values],
        }
        for key, (steps, values) in series.items()
    }


def _short(file: Path, place: Path) -> str:
    return str(file.relative_to(place)) if file != place else file.name


def draw(runs: Sequence[Run], dark: bool = False) -> Figure:
    """One run: a panel for each kind of quantity; several: one for each quantity."""
    panels = _panels_of_one(runs[0]) if len(runs) == 1 else _panels_of_many(runs)
    panels = panels[:PANELS]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with styled(dark) as tones:
        made, grid = figure(rows, columns, height=2.3 * rows + 0.3)
        axes = [ax for row in grid for ax in row]
        for ax, (title, lines) in zip(axes, panels, strict=False):
            coloured = [(label, colour(i, dark), s) for label, i, s in lines]
            _draw_panel(ax, title, coloured, len(runs) == 1)
        for ax in axes[len(panels) :]:
            ax.remove()
        if len(runs) > 1:
            lines = {
                line.get_label(): line
                for ax in axes[: len(panels)]
                for line in ax.get_lines()
            }
            made.legend(
                lines.values(),
                lines.keys(),
                loc='outside upper left',
                ncols=min(len(lines), 4),
                labelcolor=tones.ink,
            )
    return made


Panel = tuple[str, list[tuple[str, int, Series]]]  # title; (label, place, values)


def _draw_panel(
    ax: Axes, title: str, lines: list[tuple[str, str, Series]], legend: bool
) -> None:
    for label, tone, (steps, values) in lines:
        few = len(steps) <= 12
        ax.plot(steps, values, label=label, color=tone, marker='o' * few, markersize=3)
    ax.set_title(title)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=''))
    ax.yaxis.set_major_formatter('{x:.4g}')
    ax.set_xlabel('iteration')
    if legend and len(lines) > 1:
        ax.legend(loc='best', handlelength=1.2, labelspacing=0.3)


def _panels_of_one(run: Run) -> list[Panel]:
    training, panels = dict(run.training), []
    losses = [key for key in training if 'loss' in key]
    losses.sort(key=lambda key: key != 'loss')
    for title, keys in _metric_groups(run.validation):
        panels.append((title, _lines(run.validation, keys)))
    if losses:
        panels.insert(0, ('loss', _lines(training, losses)))
    accuracies = [key for key in training if 'acc' in key and key not in losses]
    rates = [key for key in ('lr', 'base_lr') if key in training]
    if len(rates) == 2 and training['lr'] == training['base_lr']:
        rates = ['lr']
    times = [key for key in TIMES if key in training]
    for title, keys in (
        ('learning rate', rates),
        ('accuracy in training, %', accuracies),
        ('norm of the gradient', [k for k in training if k == 'grad_norm']),
        ('seconds for an iteration', times),
        ('memory, MB', [k for k in training if k == 'memory']),
    ):
        if keys:
            panels.append((title, _lines(training, keys)))
    shown = {*losses, *accuracies, *rates, *times, 'base_lr', 'grad_norm', 'memory'}
    rest = [key for key in training if key not in shown]
    return panels + [(key, _lines(training, [key])) for key in rest]


def _metric_groups(validation: Mapping[str, Series]) -> list[tuple[str, list[str]]]:
    """Metrics in [0, 1], and those in per cent or of another range."""
    small, large = [], []
    for key, series in validation.items():
        finite = [value for value in series.values if math.isfinite(value)]
        (small if max(finite, default=0) <= 1 else large).append(key)
    groups = [('metrics', small[:LINES]), ('metrics, %', large[:LINES])]
    return [(title, keys) for title, keys in groups if keys]


def _lines(
    series: Mapping[str, Series], keys: Sequence[str]
) -> list[tuple[str, int, Series]]:
    return [(key, i, series[key]) for i, key in enumerate(keys[:LINES])]


def _panels_of_many(runs: Sequence[Run]) -> list[Panel]:
    every = [key for run in runs for key in run.training]
    metrics = [*dict.fromkeys(key for run in runs for key in run.validation)]
    first = [key for key in ('loss', 'lr') if key in every]
    rest = [k for k in dict.fromkeys(every) if k not in (*first, 'base_lr')]
    rest.sort(key=lambda key: ('loss' not in key, key in TIMES))
    panels = []
    keys = [*((k, False) for k in first), *((k, True) for k in metrics)]
    for key, validated in [*keys, *((k, False) for k in rest)]:
        lines = []
        for index, run in enumerate(runs):
            series = run.validation if validated else run.training
            if key in series:
                lines.append((run.name, index, series[key]))
        panels.append(('learning rate' if key == 'lr' else key, lines))
    return panels
