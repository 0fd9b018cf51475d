"""Rows of a run, on disk before the next one starts."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Row = dict[str, object]
STARTED, OK, FAILED, SKIPPED, DIED = 'started', 'ok', 'failed', 'skipped', 'died'


class Task(NamedTuple):
    """One row to be measured.

    run: gives its figures.  seconds: what it may take; it is not begun with less left,
    and the process is ended if it takes much longer.
    """

    section: str
    name: str
    run: Callable[[], Row]
    seconds: float = 5.0

    @property
    def key(self) -> tuple[str, str]:
        """What its row is found by."""
        return self.section, self.name


class Ledger:
    """Lines of JSON in a file; of two about one task the later one counts."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._begin = time.time()

    def add(self, section: str, name: str, status: str, **figures: object) -> None:
        """Append a row."""
        row = dict(section=section, name=name, status=status, **figures)
        row['at'] = round(time.time() - self._begin, 1)
        with self.file.open('a', encoding='utf-8') as file:
            file.write(f'{json.dumps(row, default=str)}\n')

    def rows(self) -> list[Row]:
        """In the order in which their tasks were begun."""
        found: dict[tuple, Row] = {}
        for row in self._lines():
            found[row['section'], row['name']] = row
        return list(found.values())

    def _lines(self) -> Iterator[Row]:
        if not self.file.exists():
            return
        for line in self.file.read_text(encoding='utf-8').splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # cut off when its process was ended
                continue

    def of(self, section: str, status: str | None = OK) -> list[Row]:
        """Rows of a section, of one status unless that is None."""
        return [
            row
            for row in self.rows()
            if row['section'] == section and status in (None, row['status'])
        ]

    def tried(self) -> set[tuple]:
        """Keys of the tasks that need not be begun again."""
        rows = self.rows()
        return {(r['section'], r['name']) for r in rows if r['status'] != SKIPPED}
