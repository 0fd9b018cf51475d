"""Runs of a comparison as a table, as numbers, and as a plot."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mmssm.analysis.style import COLOURS, figure, styled, write_figure
from tools.analysis.comparison.plan import Run, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = tuple[str, ...]


class Outcome(NamedTuple):
    """Of a run.

    result: of one_run, None for a run that failed or was not started; reason: why.
    """

    run: Run
    result: dict | None
    reason: str | None = None


class Row(NamedTuple):
    """A config on a share of the pictures; outcomes: of each of its seeds."""

    label: str
    fraction: float
    outcomes: list[Outcome]

    def results(self) -> list[dict]:
        return [o.result for o in self.outcomes if o.result is not None]

    def values(self, metric: str) -> list[float]:
        return [result['metrics'][metric] for result in self.results()]


def read_outcome(run: Run, reason: str | None = None) -> Outcome:
    """The outcome of a run as its folder has it."""
    path = run.folder / 'result.json'
    result = json.loads(path.read_text()) if path.is_file() else None
    return Outcome(run, result, None if result else reason or 'not run')


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each config and share, in the order in which they are first met."""
    rows: dict[tuple[str, float], Row] = {}
    for outcome in outcomes:
        label, fraction = outcome.run.label, outcome.run.fraction
        row = rows.setdefault((label, fraction), Row(label, fraction, []))
        row.outcomes.append(outcome)
    return list(rows.values())


def groups_of(rows: Sequence[Row]) -> dict[Metrics, list[Row]]:
    """Rows that have the same metrics; those without any result stand under ()."""
    groups: dict[Metrics, list[Row]] = {}
    for row in rows:
        found = row.results()
        metrics = tuple(found[0]['metrics']) if found else ()
        groups.setdefault(metrics, []).append(row)
    return groups


def spread(values: Sequence[float], digits: int = 3) -> str:
    """'mean ± sample standard deviation'; of one value, the value."""
    if not values:
        return '-'
    mean = f'{statistics.fmean(values):.{digits}f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {deviation(values):.{digits}f}'


def to_markdown(outcomes: Sequence[Outcome], notes: Sequence[str] = ()) -> str:
    """A table for each set of metrics, and what the numbers are, below."""
    parts = [
        _table(metrics, rows) for metrics, rows in groups_of(rows_of(outcomes)).items()
    ]
    failed = [f'* {o.run.name()}: {o.reason}' for o in outcomes if o.result is None]
    if failed:
        parts.append('Without a result, and in no mean:\n\n' + '\n'.join(failed))
    parts.append('\n'.join([ABOUT, *_lengths(outcomes), *_made_with(outcomes), *notes]))
    return '\n\n'.join(parts) + '\n'


ABOUT = (
    'Mean ± sample standard deviation (n - 1) over the seeds of a row, after the last '
    'iteration; one seed has no spread. Seconds are those of training iterations alone.'
)


def _table(metrics: Metrics, rows: Sequence[Row]) -> str:
    shares = any(row.fraction < 1 for row in rows)
    head = ['config', *(['pictures'] if shares else []), *metrics]
    head += ['parameters, M', 'of the backbone, M', 'training, s', 'seeds']
    lines = [head, ['---', *['---:'] * (len(head) - 1)]]
    for row in rows:
        lines.append([row.label, *([percent(row.fraction)] if shares else [])])
        lines[-1] += [spread(row.values(metric)) for metric in metrics]
        lines[-1] += _sizes(row.results()) + [_seeds(row)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _sizes(results: Sequence[Mapping]) -> list[str]:
    if not results:
        return ['-'] * 3
    seconds = [result['training_seconds'] for result in results]
    return [
        f'{results[0]["parameters"] / 1e6:.3f}',
        f'{results[0]["backbone_parameters"] / 1e6:.3f}',
        spread(seconds, 0),
    ]


def _seeds(row: Row) -> str:
    there = [str(o.run.seed) for o in row.outcomes if o.result is not None]
    gone = [str(o.run.seed) for o in row.outcomes if o.result is None]
    text = ', '.join(there) or 'none'
    return f'{text} (failed: {", ".join(gone)})' if gone else text


def _lengths(outcomes: Sequence[Outcome]) -> list[str]:
    found = sorted({o.result['iterations'] for o in outcomes if o.result})
    return [f'Iterations: {", ".join(map(str, found))}.'] if found else []


def _made_with(outcomes: Sequence[Outcome]) -> list[str]:
    """What the results follow from beside the configs, each value that occurs."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        for key, value in (outcome.result or {}).get('made_with', {}).items():
            if isinstance(value, Mapping):
                value = ', '.join(f'{name} {number}' for name, number in value.items())
            values = found.setdefault(key, [])
            if str(value) not in values:
                values.append(str(value))
    mixed = [key for key, values in found.items() if len(values) > 1]
    lines = []
    if mixed:
        lines.append(f'**The runs differ in {", ".join(mixed)}.**')
    shown = (f'{key}: {" / ".join(values)}' for key, values in found.items())
    return [*lines, f'Made with {"; ".join(shown)}.'] if found else lines


def to_numbers(outcomes: Sequence[Outcome], notes: Sequence[str] = ()) -> dict:
    """Every run, and mean and spread of every row."""
    rows = []
    for row in rows_of(outcomes):
        metrics = row.results()[0]['metrics'] if row.results() else {}
        rows.append(
            dict(
                config=row.label,
                fraction=row.fraction,
                seeds=[o.run.seed for o in row.outcomes if o.result is not None],
                metrics={name: _statistics(row.values(name)) for name in metrics},
            )
        )
    runs = [
        dict(
            config=o.run.label,
            fraction=o.run.fraction,
            seed=o.run.seed,
            reason=o.reason,
            **(o.result or {}),
        )
        for o in outcomes
    ]
    return dict(rows=rows, runs=runs, notes=list(notes))


def _statistics(values: Sequence[float]) -> dict[str, float | None]:
    return dict(
        mean=statistics.fmean(values),
        sample_standard_deviation=deviation(values) if len(values) > 1 else None,
    )


def draw(path: str, outcomes: Sequence[Outcome]) -> bool:
    """A panel for each metric; whether there was anything to draw.

    Every seed is a small dot, the mean a large one, the spread a bar.  Configs stand
    below each other; where there are several shares of the pictures, they are lines.
    """
    groups = groups_of(rows_of(outcomes))
    panels = [(metric, rows) for metrics, rows in groups.items() for metric in metrics]
    if not panels:
        return False
    tallest = max(len({row.label for row in rows}) for _, rows in panels)
    with styled():
        made, axes = figure(1, len(panels), height=1.2 + 0.32 * max(tallest, 5))
        for place, (metric, rows) in zip(axes[0], panels, strict=True):
            names = short_names(dict.fromkeys(row.label for row in rows))
            shares = len({row.fraction for row in rows}) > 1
            drawing = _draw_shares if shares else _draw_configs
            drawing(place, metric, rows, names)
        write_figure(path, made)
    return True


def short_names(labels: Iterable[str]) -> dict[str, str]:
    """Labels without the words that all of them begin or end with."""
    words = {label: re.split('(?<=[_-])|(?=[_-])', label) for label in labels}
    for end in (0, -1):
        while len({tuple(w[end:][:1]) for w in words.values()}) == 1:
            if len(words) == 1 or any(len(w) < 2 for w in words.values()):
                break
            for of_label in words.values():
                del of_label[end]
    return {label: ''.join(w).strip('_-') for label, w in words.items()}


def _draw_configs(
    axes: 'Axes', metric: str, rows: Sequence[Row], names: Mapping[str, str]
) -> None:
    for height, row in enumerate(rows):
        values, colour = row.values(metric), COLOURS[height % len(COLOURS)]
        if not values:
            continue
        axes.errorbar(
            statistics.fmean(values),
            height,
            xerr=deviation(values),
            fmt='o',
            capsize=3,
            c=colour,
        )
        axes.plot(values, [height] * len(values), '.', c=colour, ms=4, alpha=0.5)
    axes.set_yticks(range(len(rows)), [names[row.label] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(metric)
    axes.grid(axis='x')


def _draw_shares(
    axes: 'Axes', metric: str, rows: Sequence[Row], names: Mapping[str, str]
) -> None:
    for number, (label, name) in enumerate(names.items()):
        found = sorted(
            (100 * row.fraction, row.values(metric))
            for row in rows
            if row.label == label and row.results()
        )
        colour = COLOURS[number % len(COLOURS)]
        for share, values in found:
            axes.plot([share] * len(values), values, '.', c=colour, ms=4, alpha=0.5)
        axes.errorbar(
            [share for share, _ in found],
            [statistics.fmean(values) for _, values in found],
            [deviation(values) for _, values in found],
            fmt='o-',
            capsize=3,
            c=colour,
            label=name,
        )
    axes.set_xlabel('training pictures, %')
    axes.set_ylabel(metric)
    axes.grid(axis='y')
    axes.legend()


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 of one value, which has none."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
