"""Contact sheets show each class in its own colour, with masks or without."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from tools.analysis import draw_predictions as drawing


@pytest.fixture
def painted(monkeypatch):
    """The regions that each picture of the sheets is painted with."""
    found = []

    def paint(image, regions):
        found.append([(label, mask.copy()) for label, mask in regions])
        return image

    monkeypatch.setattr(drawing, 'paint', paint)
    return found


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['draw_predictions', *map(str, arguments)])
    drawing.main()


@pytest.mark.parametrize('first', [0, 1])
def test_label_maps(tmp_path, monkeypatch, painted, first):
    rng = np.random.default_rng(0)
    labels = rng.integers(first, first + 3, (9, 7), dtype=np.uint8)
    for folder in ('images', 'true', 'found'):
        (tmp_path / folder).mkdir()
        Image.fromarray(labels).save(tmp_path / folder / 'a.png')
    (tmp_path / 'names.txt').write_text('ground\nbox\nball\n')
    names = ['--images', '--annotations', '--predictions', '--classes', '--out']
    files = ['images', 'true', 'found', 'names.txt', 'sheet.png']
    words = [w for n, f in zip(names, files, strict=True) for w in (n, tmp_path / f)]
    run(monkeypatch, 'segmentation', *words, '--first-label', first)
    assert (tmp_path / 'sheet.png').stat().st_size > 1000
    assert painted[0] == []
    for regions in painted[1:]:
        assert [colour for colour, _ in regions] == [0, 1]  # box and ball
        for number, (_, mask) in enumerate(regions, start=1):
            assert np.array_equal(mask, labels == first + number)
    with pytest.raises(SystemExit):
        run(monkeypatch, 'segmentation', *words)


def test_boxes_without_masks(tmp_path, monkeypatch, painted):
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.png')
    box = dict(image_id=1, category_id=5, bbox=[2, 2, 5, 5])
    polygon = [[2, 2, 7, 2, 7, 7, 2, 7]]
    truth = dict(
        images=[dict(id=1, file_name='a.png', width=20, height=10)],
        annotations=[
            dict(box, id=1, area=25, iscrowd=0),
            dict(box, id=2, area=25, iscrowd=0, segmentation=polygon),
        ],
        categories=[dict(id=5, name='box')],
    )
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    found = [dict(box, score=0.9), dict(box, score=0.1)]
    (tmp_path / 'found.json').write_text(json.dumps(found))
    drawn, plain = [], drawing._draw_objects

    def draw(axis, image, objects, *rest):
        drawn.append(len(objects))
        return plain(axis, image, objects, *rest)

    monkeypatch.setattr(drawing, '_draw_objects', draw)
    places = (tmp_path, tmp_path / 'truth.json', tmp_path / 'found.json')
    drawing.draw_detection(*places, tmp_path / 'sheet.png', 1)
    assert [len(regions) for regions in painted] == [0, 1, 0]
    assert drawn == [0, 2, 1]  # not the one below the least score
    assert (tmp_path / 'sheet.png').is_file()
