"""The pages of the repository, taken apart: their blocks, headings and links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted(ROOT.glob('docs/*.md')),
    *sorted(ROOT.glob('configs/*/README.md')),
]
FENCE = re.compile(r'^ *```(\w*)$')
MARK = re.compile(r'^ *<!-- not run: (.+) -->$')
HEADING = re.compile(r'^#+ +(.+?)\s*$')
# [text](here "title"), [name]: here, and what HTML has
LINK = re.compile(
    r'\]\(([^)\s]+)(?:\s+"[^"]*")?\)|^ *\[[^\]]+\]: +(\S+)|\b(?:src|href)="([^"]+)"',
    re.MULTILINE,
)


class Block(NamedTuple):
    """A block of code, and why no test runs it where its page says so."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in its order; a mark stands on the line before a block."""
    found, reason, inside = [], None, None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if inside is not None and line.strip() == '```':
            start, language, lines = inside
            text = ''.join(f'{one}\n' for one in lines)
            found.append(Block(page, start, language, text, reason))
            inside = reason = None
        elif inside is not None:
            inside[2].append(line)
        elif fence:
            inside = (number, fence[1], [])
        else:
            mark = MARK.match(line)
            reason = mark[1] if mark else reason if not line.strip() else None
    assert inside is None, f'{page}: a block has no end'
    return found


def blocks(*languages: str) -> Iterator[Block]:
    """Those of all pages, in these languages."""
    for page in PAGES:
        yield from (b for b in blocks_of(page) if b.language in languages)


def commands_of(text: str, values: dict[str, str]) -> Iterator[list[str]]:
    """The commands of a shell block as words; assignments go into `values`."""
    for line in text.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
            name, _, value = words.pop(0).partition('=')
            values[name] = value
        if words:
            yield [re.sub(r'\$(\w+)', lambda m: values[m[1]], w) for w in words]


def prose_of(page: Path) -> list[str]:
    """The lines of a page that are in no block, inline code left out."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith('```'):
            inside = not inside
        elif not inside:
            lines.append(re.sub(r'`[^`]*`(?!\])', '', line))
    return lines


def links_of(page: Path) -> list[str]:
    """Where the links and pictures of a page lead."""
    text = '\n'.join(prose_of(page))
    return [next(filter(None, found)) for found in LINK.findall(text)]


def anchors_of(page: Path, slug) -> set[str]:
    """The anchors of a page's headings."""
    text = re.sub(r'^ *```.*?^ *```$', '', page.read_text(), flags=re.S | re.M)
    headings = (HEADING.match(line) for line in text.splitlines())
    return {slug(heading[1]) for heading in headings if heading}


def github_slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).replace('`', '')
    return re.sub(r'[^\w\- ]', '', plain.lower()).replace(' ', '-')


def site_slug(heading: str) -> str:
    """The anchor that the site, Python-Markdown, gives a heading."""
    plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).replace('`', '')
    plain = re.sub(r'[^\w\s-]', '', plain.encode('ascii', 'ignore').decode())
    return re.sub(r'[-\s]+', '-', plain.strip().lower())
