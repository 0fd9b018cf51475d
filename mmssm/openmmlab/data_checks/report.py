"""What `mmssm-check-data` collects: facts, warnings and errors, each with a way out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import NamedTuple

WARNING, ERROR = 'warning', 'ERROR'


class Finding(NamedTuple):
    """place: the heading under which it was found.  kind: WARNING or ERROR."""

    place: str
    kind: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f'{self.kind}: {self.what}\n    Fix: {self.fix}'


class Report:
    """Keeps the findings in the order in which they come.

    silent: collect them without printing.
    """

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent
        self.place = ''
        self.findings: list[Finding] = []

    @property
    def errors(self) -> int:
        return sum(finding.kind == ERROR for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors

    def heading(self, text: str) -> None:
        self.place = text
        self._print(f'\n{text}')

    def fact(self, text: str) -> None:
        self._print(f'  {text}')

    def warning(self, what: str, fix: str) -> None:
        self._add(Finding(self.place, WARNING, what, fix))

    def error(self, what: str, fix: str) -> None:
        self._add(Finding(self.place, ERROR, what, fix))

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._print(f'  {finding}')

    def _print(self, text: str) -> None:
        if not self.silent:
            print(text)


def some(items: Collection, limit: int = 3) -> str:
    """The first few of many, and how many there are."""
    shown = ', '.join(str(item) for item in list(items)[:limit])
    return shown if len(items) <= limit else f'{shown}, … ({len(items)} in all)'


def sample(items: Sequence, count: int | None) -> list:
    """`count` items spread evenly over all; None: every one."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def as_tuple(names: Sequence[str]) -> str:
    """Names as one writes them into a config."""
    return f'classes=({", ".join(map(repr, names))}{"," if len(names) == 1 else ""})'


def similar(name: str, names: Sequence[str]) -> str | None:
    """The one of `names` that `name` was probably meant to be.

    Case, blanks, hyphens, underscores and a final s do not count.
    """

    def plain(text: str) -> str:
        text = ''.join(c for c in text.lower() if c not in ' -_')
        return text.removesuffix('s')

    for other in names:
        if plain(other) == plain(name):
            return other
    close = get_close_matches(name, names, n=1, cutoff=0.8)
    return close[0] if close else None


def counts(names: Sequence[str], numbers: Sequence[int]) -> str:
    """Names with their numbers, most frequent first, shortened when there are many."""
    pairs = sorted(
        zip(map(str, names), numbers, strict=True), key=lambda pair: -pair[1]
    )
    shown = [f'{name} {number}' for name, number in pairs]
    if len(shown) > 24:
        shown = [*shown[:12], '…', *shown[-8:]]
    return ' · '.join(shown)
