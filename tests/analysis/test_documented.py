"""The Python blocks of the pages about analysis run, with what they say."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / 'docs'


def run(page):
    (block,) = re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)
    torch.manual_seed(0)
    names = {}
    exec(compile(block, page, 'exec'), names)  # a page of this project
    return names


@pytest.mark.filterwarnings('ignore')
def test_matrices_and_rows():
    names = run('mixers.md')
    assert names['matrix'].shape == (1, 96, 63, 63)
    expected = names['matrix'][:, :, 3 * 9 + 4].unflatten(2, (7, 9))
    torch.testing.assert_close(names['row'], expected)


def test_a_field_and_its_areas():
    names = run('looking.md')
    assert names['field'].shape == (128, 128)


@pytest.mark.parametrize('page', ['mixers.md', 'looking.md'])
def test_pictures_are_there_and_small(page):
    found = re.findall(r'!\[.*?\]\((\S+)\)', (DOCS / page).read_text())
    assert found
    for name in found:
        assert (DOCS / name).stat().st_size < 200_000
