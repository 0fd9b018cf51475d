"""The pages lead to one another, on GitHub and in the site that `make docs` builds."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from pages import (
    PAGES,
    ROOT,
    anchors_of,
    github_slug,
    links_of,
    prose_of,
    site_slug,
)

SITE = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())
# the site takes all of the first folder, see tools/site/hooks.py
LINKED = sorted({*PAGES, *ROOT.glob('*.md')})
MKDOCS = ROOT / '.venv-docs/bin/mkdocs'


def in_navigation(entries) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    parts = entries.values() if isinstance(entries, dict) else entries
    return [name for part in parts for name in in_navigation(part)]


@pytest.mark.parametrize('page', LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links_of(page):
        if '://' in link:
            continue
        name, _, anchor = link.partition('#')
        target = page if not name else (page.parent / name).resolve()
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            for slug in (github_slug, site_slug):
                assert anchor in anchors_of(target, slug), (link, slug.__name__)


@pytest.mark.parametrize('page', LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_pictures_have_a_text_instead(page):
    for text in re.findall(r'!\[(.*?)\]\(', '\n'.join(prose_of(page))):
        assert len(text) > 10, text


def test_the_navigation_has_every_page_once():
    names = in_navigation(SITE['nav'])
    pages = {page.relative_to(ROOT).as_posix() for page in LINKED}
    assert sorted(names) == sorted(pages)


def test_slugs():
    assert github_slug('`mmssm-train`: a *loss*, 2-D') == 'mmssm-train-a-loss-2-d'
    assert site_slug('A – b, [link](x.md)') == 'a-b-link'
    assert github_slug('A – b, [link](x.md)') == 'a--b-link'


def test_the_site_fetches_nothing():
    assert SITE['theme']['font'] is False
    for key in ('extra_javascript', 'extra_css'):
        assert not [name for name in SITE.get(key, []) if '://' in str(name)]


def test_the_site_is_built_and_needs_no_network(tmp_path: Path):
    if not MKDOCS.exists():
        pytest.skip('make docs has not made .venv-docs, which has mkdocs')
    done = subprocess.run(
        [MKDOCS, 'build', '--strict', '--site-dir', tmp_path / 'site'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / 'site').rglob('*.html'))
    assert len(pages) > len(LINKED)
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]*)"', text)
        fetched += re.findall(r'<link[^>]* href="([^"]*)"', text)
        assert not [name for name in fetched if '//' in name], page
        assert 'arithmatex' not in text, page
    assert (tmp_path / 'site/index.html').is_file()
