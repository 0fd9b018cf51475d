"""Results as JSON, and as tables for people."""

import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

MARK, END = '<!-- benchmark {} -->', '<!-- end of benchmark -->'


class Row(NamedTuple):
    """A case at one size and in one mode.

    seconds: of each repeat; none where memory ran out.  peak: bytes beyond model and
    input.  macs: for one image.
    copy_seconds: of copying what the case must read and write, in turns with it.
    base_seconds: of the revision that the case is compared with, in turns too.
    peer: case that ratios are to.
    """

    case: str
    size: str
    batch: int
    mode: str
    seconds: list[float]
    peak: int | None = None
    parameters: int | None = None
    macs: int | None = None
    copy_seconds: list[float] | None = None
    base_seconds: list[float] | None = None
    peer: str | None = None

    @property
    def median(self) -> float:
        """Seconds; not a number where memory ran out."""
        return statistics.median(self.seconds) if self.seconds else math.nan

    @property
    def figures(self) -> dict[str, object]:
        """The row with what follows from its times, for JSON."""
        if not self.seconds:
            return {**self._asdict(), 'out_of_memory': True}
        derived: dict[str, object] = {
            'median_seconds': self.median,
            'images_per_second': self.batch / self.median,
        }
        if self.copy_seconds:
            copy = statistics.median(self.copy_seconds)
            derived['of_copy_bandwidth'] = copy / self.median
        if self.base_seconds:
            derived['of_base'] = self.median / statistics.median(self.base_seconds)
        return {**self._asdict(), **derived}


def to_json(about: dict[str, object], rows: Iterable[Row]) -> str:
    """about: the machine and the settings."""
    figures = [row.figures for row in rows]
    return json.dumps({'about': about, 'rows': figures}, indent=1) + '\n'


def from_json(text: str) -> list[Row]:
    """The rows of `to_json`."""
    return [
        Row(**{field: figures[field] for field in Row._fields})
        for figures in json.loads(text)['rows']
    ]


def to_markdown(about: dict[str, object], rows: Sequence[Row]) -> str:
    """A line about the machine and a table for each group."""
    groups = dict.fromkeys(row.case.split('/')[0] for row in rows)
    tables = [
        _table([row for row in rows if row.case.startswith(f'{group}/')])
        for group in groups
    ]
    return '\n\n'.join([sentence(about), *tables]) + '\n'


def sentence(about: dict[str, object]) -> str:
    """What is known of the machine and the settings, in one line."""
    said = ', '.join(f'{key} {value}' for key, value in about.items())
    return f'{said[:1].upper()}{said[1:]}.'


def _table(rows: Sequence[Row]) -> str:
    """One line for each case and size, modes beside each other."""
    by_key = {(row.case, row.size, row.mode): row for row in rows}
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        peer = by_key.get((row.peer, row.size, row.mode))
        images = f'{row.batch} of {row.size}'
        lines.setdefault((row.case, images), {}).update(_cells(row, peer))
    titles = dict.fromkeys(title for cells in lines.values() for title in cells)
    text = [
        '| | images | ' + ' | '.join(titles) + ' |',
        '| --- | --- |' + ' ---: |' * len(titles),
    ]
    for (case, images), cells in lines.items():
        values = ' | '.join(cells.get(title, '') for title in titles)
        text.append(f'| {case.split("/", 1)[1]} | {images} | {values} |')
    return '\n'.join(text)


def _cells(row: Row, peer: Row | None) -> dict[str, str]:
    """What a row puts under which titles."""
    figures, mode = row.figures, row.mode
    cells = {}
    if row.parameters:
        cells['parameters, M'] = f'{row.parameters / 1e6:.2f}'
    if row.macs:
        cells['MACs, G'] = f'{row.macs / 1e9:.2f}'
    if not row.seconds:
        return {**cells, f'{mode}, ms': 'out of memory'}
    cells[f'{mode}, ms'] = short(1e3 * row.median)
    if row.peer:
        cells[f'{mode}, images/s'] = short(figures['images_per_second'])
    if row.peak is not None:
        cells[f'{mode} peak, MB'] = f'{row.peak / 1e6:.0f}'
    if peer and peer.seconds:
        cells[f'{mode}, of peer'] = f'{row.median / peer.median:.2f}'
        if row.peak is not None and peer.peak:
            cells[f'{mode} peak, of peer'] = f'{row.peak / peer.peak:.2f}'
    if row.copy_seconds:
        cells[f'{mode}, of copy bandwidth'] = f'{figures["of_copy_bandwidth"]:.3f}'
    if row.base_seconds:
        cells[f'{mode}, of base'] = f'{figures["of_base"]:.3f}'
    return cells


def short(value: float) -> str:
    """Three digits, more for a larger number, and no exponent."""
    return f'{value:.0f}' if value >= 1000 else f'{value:.3g}'


def insert(page: str, name: str, table: str) -> str:
    """The page with `table` between the marks of that name.

    Raises ValueError where the page lacks them.
    """
    mark = MARK.format(name)
    before, found, rest = page.partition(mark)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f'the page has no place for {name!r}; write {mark} and {END}')
    return f'{before}{mark}\n\n{table.strip()}\n\n{END}{after}'


def write_whole(path: Path, text: str) -> None:
    """Write under a temporary name, then move into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
