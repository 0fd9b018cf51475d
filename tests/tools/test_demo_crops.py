"""Crops of a COCO data set, a folder for each class."""

import json

import numpy as np
import pytest
from PIL import Image

from tools.demo import crops


@pytest.fixture
def source(tmp_path):
    """One picture in both splits: a crowd, a box inside and one in a corner."""
    array = np.zeros((40, 60, 3), dtype=np.uint8)
    array[10:20, 30:34] = (255, 0, 0)
    boxes = [([30, 10, 4, 10], 2, 0), ([50, 36, 10, 4], 1, 0), ([0, 0, 60, 40], 1, 1)]
    objects = [
        dict(id=i, image_id=7, bbox=box, category_id=kind, iscrowd=crowd)
        for i, (box, kind, crowd) in enumerate(boxes)
    ]
    content = dict(
        images=[dict(id=7, file_name='seven.png')],
        categories=[dict(id=1, name='ball'), dict(id=2, name='star')],
        annotations=objects,
    )
    (tmp_path / 'annotations').mkdir()
    for split in ('train', 'val'):
        (tmp_path / split).mkdir()
        Image.fromarray(array).save(tmp_path / split / 'seven.png')
        file = tmp_path / f'annotations/instances_{split}.json'
        file.write_text(json.dumps(content))
    return tmp_path


def test_squares_stay_in_the_picture():
    assert crops.square([30, 10, 4, 10], 40, 60) == (24, 8, 15)  # centre 32, 15
    assert crops.square([50, 36, 10, 4], 40, 60) == (45, 25, 15)
    assert crops.square([0, 0, 60, 40], 40, 60) == (10, 0, 40)
    assert crops.square([3, 3, 0.1, 0.1], 40, 60)[2] == 1


def test_a_folder_for_each_class(source, tmp_path):
    target = tmp_path / 'classes'
    assert crops.cut(source, target) == 4  # the crowd is left out
    found = sorted(str(p.relative_to(target)) for p in target.rglob('*.jpg'))
    assert found == [
        f'{split}/{name}'
        for split in ('train', 'val')
        for name in ('ball/seven_1.jpg', 'star/seven_0.jpg')
    ]
    star = np.asarray(Image.open(target / 'train/star/seven_0.jpg')).astype(int)
    assert star.shape == (15, 15, 3)
    red = (star[..., 0] - star[..., 2] > 100).nonzero()
    assert red[0].min() == 2  # rows 10 to 19 of a square that begins at 8
    assert red[1].min() in (5, 6)
    with pytest.raises(FileExistsError):
        crops.cut(source, target)


def test_a_picture_that_is_missing_is_named(source, tmp_path):
    (source / 'val/seven.png').unlink()
    with pytest.raises(FileNotFoundError, match='no picture at .*val/seven.png'):
        crops.cut(source, tmp_path / 'classes')
