"""Hooks of mkdocs: one site of the pages of this repository, wherever they lie.

mkdocs takes pages of one folder; here README.md, those of docs/ and those of configs/
keep their paths, so that a relative link is right on GitHub and in the site alike.  A
file of code that a page links to becomes a page as well, and formulas become MathML,
which browsers draw by themselves: the site fetches nothing from anywhere.
"""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PATTERNS = ('*.md', 'docs/*.md', 'configs/*/README.md', 'docs/*.jpg', 'docs/*.png')
LANGUAGES = {'.py': 'python', '.yml': 'yaml', '.cff': 'yaml', '.sh': 'bash'}
LINK = re.compile(r'(\]\()([^)#\s]+)(?=[)#])')
FENCE = re.compile(r'^ *```.*?^ *```$', re.DOTALL | re.MULTILINE)
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Every page under its path in the repository, and the code they link to."""
    root = root_of(config)
    ours = [file for file in files if file.src_dir != config.docs_dir]
    pages = sorted(path for pattern in PATTERNS for path in root.glob(pattern))
    for path in pages:
        name = path.relative_to(root).as_posix()
        ours.append(File(name, str(root), config.site_dir, config.use_directory_urls))
    for path in sorted(code_of(pages, root)):
        name = path.relative_to(root).as_posix()
        ours.append(File.generated(config, f'{name}.md', content=source_page(path)))
    return Files(ours)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_) -> str:
    """Links to code and to folders lead to the pages that stand for them."""
    folder = (root_of(config) / page.file.src_uri).parent

    def lead(found: re.Match) -> str:
        target = target_of(found[2], folder, root_of(config))
        if target is None or target.suffix in ('.md', '.jpg', '.png'):
            return found[0]
        return f'{found[1]}{found[2].rstrip("/")}{"/README" * target.is_dir()}.md'

    parts = re.split(f'({FENCE.pattern})', markdown, flags=FENCE.flags)
    parts[::2] = [LINK.sub(lead, part) for part in parts[::2]]
    return ''.join(parts)


def on_page_content(content: str, **_) -> str:
    """Formulas as MathML."""

    def draw(found: re.Match) -> str:
        formula = html.unescape(found[2]).strip()
        return convert(formula, display='block' if found[1] == 'div' else 'inline')

    return FORMULA.sub(draw, content)


def root_of(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def code_of(pages: list[Path], root: Path) -> set[Path]:
    """The files that pages link to and that are no pages or pictures themselves."""
    found = set()
    for page in (page for page in pages if page.suffix == '.md'):
        for link in LINK.findall(FENCE.sub('', page.read_text(encoding='utf-8'))):
            target = target_of(link[1], page.parent, root)
            if target and target.is_file() and target not in pages:
                found.add(target)
    return found


def target_of(link: str, folder: Path, root: Path) -> Path | None:
    """The file or folder of the repository that a link leads to, if it does."""
    path = (folder / link).resolve()
    inside = path.is_relative_to(root) and '://' not in link
    return path if inside and path.exists() else None


def source_page(path: Path) -> str:
    language = LANGUAGES.get(path.suffix, 'text')
    text = path.read_text(encoding='utf-8')
    return f'# {path.name}\n\n````{language}\n{text}\n````\n'
