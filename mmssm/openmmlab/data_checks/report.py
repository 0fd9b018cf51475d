"""What `mmssm-check-data` collects: facts, warnings and errors, each with a way out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches


class Report:
    """Prints findings as they come and counts them."""

    def __init__(self) -> None:
        self.errors = 0
        self.warnings = 0

    def heading(self, text: str) -> None:
        print(f'\n{text}')

    def fact(self, text: str) -> None:
        print(f'  {text}')

    def warning(self, what: str, fix: str) -> None:
        self.warnings += 1
        self._print('warning', what, fix)

    def error(self, what: str, fix: str) -> None:
        self.errors += 1
        self._print('ERROR', what, fix)

    def _print(self, kind: str, what: str, fix: str) -> None:
        print(f'  {kind}: {what}\n    Fix: {fix}')


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
    pairs = sorted(zip(names, numbers, strict=True), key=lambda pair: -pair[1])
    shown = [f'{name} {number}' for name, number in pairs]
    if len(shown) > 24:
        shown = [*shown[:12], '…', *shown[-8:]]
    return ' · '.join(shown)
