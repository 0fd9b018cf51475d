"""Try everything that the page on reliability claims, and print its table.

    python -m tools.reliability.run [--minutes 60] [--only numerics files ...]

Each section gets its part of the time; a check that could not try as many cases as it
wants says how many it tried.  The exit status is 1 when a case failed.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import torch

from tools.benchmarks.report import insert, sentence, write_whole
from tools.reliability.check import Check, Clock, Outcome

# Modules with a function `checks`, and their parts of the time
SECTIONS = {
    'numerics': 6,
    'files': 1,
    'arguments': 2,
    'suites': 3,
    'faults': 3,
    'conformance': 3,
    'load': 4,
    'mutants': 6,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, keep; 1 when something failed."""
    args = _parse(argv)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    about = _about(args.seed)
    lines = []
    for check, clock in parted(args.only, 60 * args.minutes):
        print(f'{check.section}: {check.title}', flush=True)
        start = time.monotonic()
        outcome = check.run(clock, args.seed)
        lines.append(_line(check, outcome, time.monotonic() - start))
        _tell(outcome)
        text = json.dumps({'about': about, 'lines': lines}, indent=1)
        write_whole(args.out / 'reliability.json', text + '\n')
    table = to_markdown(about, lines)
    write_whole(args.out / 'reliability.md', table)
    print(f'\n{table}')
    if args.into:
        page, mark = Path(args.into[0]), args.into[1]
        write_whole(page, insert(page.read_text(), mark, table))
    return int(any(line['failures'] for line in lines))


def parted(names: Sequence[str], seconds: float) -> Iterator[tuple[Check, Clock]]:
    """The checks of some sections and their time; later ones have what others left."""
    clock = Clock(seconds)
    checks = [
        (check, SECTIONS[name] * check.weight / sum(c.weight for c in found))
        for name in SECTIONS
        if name in names
        for found in [importlib.import_module(f'tools.reliability.{name}').checks()]
        for check in found
    ]
    for place, (check, part) in enumerate(checks):
        rest = sum(part for _, part in checks[place:])
        yield check, Clock(clock.left * part / rest)


def to_markdown(about: dict[str, object], lines: Sequence[dict]) -> str:
    """A line about the machine, and a line for each check."""
    rows = [
        sentence(about),
        '',
        '| | tried | of | failed | s | |',
        '| --- | ---: | ---: | ---: | ---: | --- |',
    ]
    section = None
    for line in lines:
        if line['section'] != section:
            section = line['section']
            rows.append(f'| **{section}** | | | | | |')
        figures = (line['tried'], line['cases'], len(line['failures']))
        cells = ' | '.join(f'{figure:,}'.replace(',', ' ') for figure in figures)
        rows.append(
            f'| {line["title"]} | {cells} | {line["seconds"]:.0f} | {line["remark"]} |'
        )
    return '\n'.join(rows) + '\n'


def _line(check: Check, outcome: Outcome, seconds: float) -> dict:
    return {
        'section': check.section,
        'title': check.title,
        'cases': max(check.cases, outcome.tried),
        **outcome._asdict(),
        'seconds': round(seconds, 1),
    }


def _tell(outcome: Outcome) -> None:
    remark = f', {outcome.remark}' if outcome.remark else ''
    print(f'  {outcome.tried} tried, {len(outcome.failures)} failed{remark}')
    for failure in outcome.failures:
        print(f'  FAILED {failure}', flush=True)


def _about(seed: int) -> dict[str, object]:
    return {
        'date': date.today().isoformat(),
        'torch': torch.__version__,
        'Python': '.'.join(map(str, sys.version_info[:3])),
        'CPU capability': torch.backends.cpu.get_cpu_capability(),
        'cores': len(os.sched_getaffinity(0)),
        'seed': seed,
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m tools.reliability.run',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--minutes', type=float, default=60, help='for all of it')
    parser.add_argument(
        '--only',
        nargs='+',
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar='SECTION',
        help=f'some of: {", ".join(SECTIONS)}',
    )
    parser.add_argument('--seed', type=int, default=0, help='of everything drawn')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/reliability'),
        help='folder for reliability.json and reliability.md',
    )
    parser.add_argument(
        '--into',
        nargs=2,
        metavar=('FILE', 'MARK'),
        help='put the table between the marks of a page',
    )
    args = parser.parse_args(argv)
    if args.minutes <= 0:
        parser.error(f'--minutes is {args.minutes}; expected more than 0')
    return args


if __name__ == '__main__':
    sys.exit(main())
