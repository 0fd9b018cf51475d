"""Files of the suite are whole, and their figures follow from the times."""

import re
from pathlib import Path

import pytest

from tools.benchmarks import report

DOCS = Path(__file__).parents[2] / 'docs'


def test_a_file_is_whole_or_as_it_was(monkeypatch, tmp_path):
    file = tmp_path / 'results.json'
    report.write_whole(file, 'before')

    def fail(*paths: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(report.os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        report.write_whole(file, 'after')
    assert file.read_text() == 'before'
    assert list(tmp_path.iterdir()) == [file]


def test_a_row_without_times_says_that_memory_ran_out():
    row = report.Row('g/large', '8x8', 2, 'training', [], peer='g/fast')
    fast = report.Row('g/fast', '8x8', 2, 'training', [1.0], peak=8)
    table = report.to_markdown({}, [row, fast])
    assert '| large | 2 of 8x8 | out of memory |  |' in table
    assert report.from_json(report.to_json({}, [row])) == [row]


def test_rows_and_their_figures():
    slow = report.Row('g/slow', '8x8', 2, 'inference', [1.0, 5.0, 4.0], peer='g/fast')
    fast = report.Row('g/fast', '8x8', 2, 'inference', [1.0], copy_seconds=[0.25])
    assert slow.figures['images_per_second'] == 0.5
    assert fast.figures['of_copy_bandwidth'] == 0.25
    assert fast._replace(base_seconds=[2.0]).figures['of_base'] == 0.5
    assert report.from_json(report.to_json({}, [slow, fast])) == [slow, fast]
    table = report.to_markdown({'torch': 2}, [fast, slow])
    assert '| slow | 2 of 8x8 | 4000 |  | 0.5 | 4.00 |' in table


@pytest.mark.parametrize('name', ['benchmarks.md', 'scaling.md'])
def test_commands_of_the_pages_have_their_places(name):
    page = (DOCS / name).read_text()
    places = re.findall(rf'--into docs/{name} ([\w-]+)', page)
    assert len(places) >= 3
    for place in places:
        filled = report.insert(page, place, '| table |')
        assert filled.count('| table |') == 1
        assert filled.count(report.END) == page.count(report.END)
