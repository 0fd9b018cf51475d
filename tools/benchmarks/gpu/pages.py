"""Rows of a run as a page of tables, and as a few lines for a terminal."""

from collections.abc import Callable, Sequence

from tools.benchmarks.gpu.ledger import FAILED, OK, SKIPPED, Row
from tools.benchmarks.report import short

OWN = ('section', 'name', 'status', 'at', 'limit')
HIDDEN = (*OWN, 'traceback')
LISTS = ('facts', 'backends')
LONGEST = 8800  # characters of the lines for a terminal
# figures that only some networks have -> what follows their speed
EXTRA = {
    'peak, GB': ' {:.1f} GB',
    'compile, s': ', compiled in {} s',
    'for 4x the pixels': ', {:.2f} x a quarter',
    'flag': ' {}',
}
KERNELS = ('kernels', 'forward kernels', 'backward kernels')


def page(rows: Sequence[Row]) -> str:
    """A table for each section, errors and lists of kernels below it."""
    parts = ['# One run on a GPU\n']
    for section in dict.fromkeys(row['section'] for row in rows):
        these = [row for row in rows if row['section'] == section]
        told = _list(these) if section in LISTS else _table(these)
        parts.append(f'## {section}\n\n{told}\n')
        parts += [_details(row) for row in these if _details(row)]
    return '\n'.join(parts)


def _list(rows: Sequence[Row]) -> str:
    """For rows that have no figure in common."""
    lines = []
    for row in rows:
        lines.append(f'* {row["name"]} ({row["status"]})')
        lines += [f'  * {k}: {_cell(v)}' for k, v in row.items() if k not in HIDDEN]
    return '\n'.join(lines)


def _table(rows: Sequence[Row]) -> str:
    titles = dict.fromkeys(
        key
        for row in rows
        for key, value in row.items()
        if key not in HIDDEN and not isinstance(value, list)
    )
    lines = [
        '| | status | ' + ' | '.join(titles) + ' |',
        '| --- | --- |' + ' ---: |' * len(titles),
    ]
    for row in rows:
        cells = ' | '.join(_cell(row.get(title)) for title in titles)
        lines.append(f'| {row["name"]} | {row["status"]} | {cells} |')
    return '\n'.join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        tiny = value != 0 and abs(value) < 1e-3
        return f'{value:.1e}' if tiny else short(value)
    text = '' if value is None else str(value)
    return text.replace('|', '/').replace('\n', ' ')[:200]


def _details(row: Row) -> str:
    lines = []
    for title in KERNELS:
        for name, calls, milliseconds in row.get(title, ()):
            lines.append(f'    {milliseconds:9.4f} ms {calls:6.1f} x  {name[:140]}')
        if row.get(title):
            lines.insert(len(lines) - len(row[title]), f'    {title}:')
    lines += [f'    {line}' for line in row.get('binaries', ())]
    if 'traceback' in row:
        lines += [f'    {line}' for line in str(row['traceback']).splitlines()[-12:]]
    return f'\n{row["name"]}\n\n' + '\n'.join(lines) + '\n' if lines else ''


def summary(rows: Sequence[Row]) -> str:
    """What matters most first, and no more than a terminal's caller gets to see."""
    sections: tuple[tuple[str, Callable[[list[Row]], list[str]]], ...] = (
        ('facts', _facts),
        ('compilation', _compilation),
        ('backends', lambda rows: [_pairs(row) for row in rows]),
        ('parity', _parity),
        ('networks', _networks),
        ('compiled', _networks),
        ('growth', _networks),
        ('kernels', _kernels),
        ('profile', _profile),
    )
    parts = []
    for section, lines_of in sections:
        these = [row for row in rows if row['section'] == section]
        if these:
            parts += [f'== {section}', *lines_of(these), *_failures(these)]
    text = '\n'.join(parts)
    if len(text) > LONGEST:
        text = f'{text[:LONGEST]}\n(cut; the rest is in report.md)'
    return text


def _facts(rows: list[Row]) -> list[str]:
    told = {k: v for row in rows for k, v in row.items() if k not in OWN}
    for noise in ('copy_bytes_per_second', 'error', 'traceback'):
        told.pop(noise, None)
    return [', '.join(f'{key} {_cell(value)}' for key, value in told.items())]


def _compilation(rows: list[Row]) -> list[str]:
    whole = [row for row in rows if row['name'] == 'all' and row['status'] == OK]
    slow = sorted(
        (row for row in rows if row['name'] != 'all' and 's' in row),
        key=lambda row: -row['s'],
    )
    lines = [_pairs(row) for row in whole]
    return lines + ['longest: ' + '; '.join(f'{r["name"]} {r["s"]}' for r in slow[:5])]


def _parity(rows: list[Row]) -> list[str]:
    checked = [row for row in rows if 'parity' in row and row['status'] == OK]
    red = [row for row in checked if row['parity'] == 'RED']
    lines = [f'{len(checked)} checked, {len(red)} RED']
    for row in red[:12] + [row for row in checked if row['parity'] == 'see error']:
        lines.append(
            f'{row["parity"]} {row["name"]}: {row["worst"]} '
            f'{row["its error"]:.1e}, plain torch {row["plain torch"]:.1e}, '
            f'result {row["result"]:.1e}'
        )
    return lines


def _pairs(row: Row) -> str:
    return ', '.join(f'{k}: {str(v)[:120]}' for k, v in row.items() if k not in OWN)


def _networks(rows: list[Row]) -> list[str]:
    """A line for each network and size, both modes in it."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row['status'] == OK:
            name, _, mode = row['name'].rpartition(', ')
            if mode not in ('inference', 'training'):
                name, mode = row['name'], ''
            words = f'{mode} {short(row["ms"])} ms {short(row["images/s"])}/s'
            for title, form in EXTRA.items():
                words += form.format(row[title]) if title in row else ''
            if f'{row["batch"]} x ' not in row['name']:
                words += f' at batch {row["batch"]}'
            lines.setdefault(name, []).append(words.strip())
    return [f'{name}: {"; ".join(words)}' for name, words in lines.items()]


def _kernels(rows: list[Row]) -> list[str]:
    """A line for each rival and group: forward/backward ms and share by stage."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row['status'] == OK and 'forward, ms' in row:
            stage, name = row['name'].split(': ')
            group = stage.split(' stage')[0]
            flag = f' {row["flag"]}' if 'flag' in row else ''
            cell = f'{row["forward, ms"]:.3f}/{row["backward, ms"]:.3f}'
            if 'forward, of copy' in row:
                shares = row['forward, of copy'], row['backward, of copy']
                cell += ' ({:.2f}/{:.2f})'.format(*shares)
            lines.setdefault(f'{group} {name}{flag}', []).append(cell)
    head = ['forward/backward ms (share of copy) by stage']
    return head + [f'{name}: ' + ', '.join(cells) for name, cells in lines.items()]


def _profile(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row['status'] == OK and 'kernels' in row:
            total = row['kernels, ms'] or 1.0
            lines.append(
                f'{row["name"]}: {total:.1f} ms in kernels, '
                f'{row["launches"]:.0f} launches'
            )
            for name, calls, milliseconds in row['kernels'][:15]:
                share = 100 * milliseconds / total
                lines.append(
                    f'{milliseconds:8.2f} {share:4.1f}% {calls:5.0f} {_brief(name)}'
                )
    return lines


def _brief(name: str) -> str:
    """Without what every name of PyTorch has."""
    for noise in ('void ', 'at::native::', '(anonymous namespace)::', 'cutlass::'):
        name = name.replace(noise, '')
    return name[:56]


def _failures(rows: list[Row]) -> list[str]:
    skipped = [row['name'] for row in rows if row['status'] == SKIPPED]
    lines = [
        f'{row["status"].upper()} {row["name"]}: {str(row.get("error", ""))[:160]}'
        for row in rows
        if row['status'] not in (OK, SKIPPED)
    ]
    if len(lines) > 6:
        lines = [*lines[:6], f'and {len(lines) - 6} more {FAILED}']
    if skipped:
        first = '; '.join(skipped[:3])
        lines.append(f'skipped for time: {len(skipped)} ({first} ...)')
    return lines
