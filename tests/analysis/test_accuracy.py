"""Accuracy on a folder of pictures: what is read, in which order, and what is right."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmssm.analysis.accuracy import (
    Pictures,
    Recipe,
    accuracy,
    find_pictures,
    published_top1,
    read_picture,
)
from mmssm.weights import RELEASED


def write(path, value, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (value, 2 * value, 3 * value)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three classes of 4, 2 and 1 pictures, whose value is 10 times the class."""
    for label, (name, count) in enumerate((('cat', 4), ('dog', 2), ('emu', 1))):
        for number in range(count):
            write(tmp_path / f'set/{name}/{number}.png', 10 * label)
    (tmp_path / 'set/dog/notes.txt').write_text('no picture')
    (tmp_path / 'set/readme').touch()
    return tmp_path / 'set'


PLAIN = Recipe(resize=4, crop=4, mean=(0, 0, 0), std=(1, 1, 1))


def rule(answers, classes=3):
    """A model that answers from the value of a picture; the others follow in order."""

    def model(x):
        values = x[:, 0, 0, 0].round().int().tolist()
        logits = -torch.arange(classes).float().expand(len(x), classes).clone()
        for row, value in enumerate(values):
            logits[row, answers[value]] = 1
        return logits

    return model


def test_classes_are_the_sorted_folders(folder):
    files, names = find_pictures(folder)
    assert names == ['cat', 'dog', 'emu']
    assert [label for _, label in files] == [0, 0, 0, 0, 1, 1, 2]
    assert [path.name for path, _ in files[:2]] == ['0.png', '1.png']


def test_a_list_gives_the_order_and_may_have_more(folder):
    files, names = find_pictures(folder, ['emu', 'ant', 'cat', 'dog'])
    assert len(names) == 4
    assert [label for _, label in files] == [2, 2, 2, 2, 3, 3, 0]
    with pytest.raises(ValueError, match='not among the 2 classes: dog; .* cat, emu'):
        find_pictures(folder, ['cat', 'emu'])


def test_folders_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match='no folder .*absent'):
        find_pictures(tmp_path / 'absent')
    with pytest.raises(ValueError, match='has no folders; expected one for each class'):
        find_pictures(tmp_path)
    (tmp_path / 'cat').mkdir()
    with pytest.raises(ValueError, match='no picture in the folders .*jpeg'):
        find_pictures(tmp_path)


@pytest.mark.parametrize('batch_size', [1, 3, 64])
def test_top1_by_hand(folder, batch_size):
    files, _ = find_pictures(folder)
    pictures = Pictures(files, PLAIN)
    found = accuracy(rule({0: 0, 10: 2, 20: 2}), pictures, batch_size=batch_size)
    assert found.top1 == pytest.approx(100 * 5 / 7)
    assert found.top5 is None
    assert found.count == 7


def test_top5_by_hand(folder):
    names = ['a', 'b', 'c', 'd', 'e', 'cat', 'dog', 'emu']
    files, _ = find_pictures(folder, names)
    # beside the answer, the four largest logits are those of 0 to 3
    found = accuracy(rule({0: 5, 10: 0, 20: 7}, 8), Pictures(files, PLAIN))
    assert found.top1 == found.top5 == pytest.approx(100 * 5 / 7)
    four = names[5:] + names[:5]
    files, _ = find_pictures(folder, four)
    found = accuracy(rule({0: 7, 10: 7, 20: 2}, 8), Pictures(files, PLAIN))
    assert found.top1 == pytest.approx(100 / 7)
    assert found.top5 == pytest.approx(100)


def test_pictures_that_cannot_be_read_are_named_and_do_not_count(folder):
    broken = folder / 'cat/0.png'
    broken.write_bytes(b'no picture')
    cut = folder / 'dog/1.png'
    cut.write_bytes(cut.read_bytes()[:40])
    files, _ = find_pictures(folder)
    found = accuracy(rule({0: 0, 10: 2, 20: 2}), Pictures(files, PLAIN), batch_size=2)
    assert found.unreadable == [str(broken), str(cut)]
    assert found.count == 5
    assert found.top1 == pytest.approx(80)


@pytest.mark.parametrize(
    ('size', 'resized'), [((47, 31), (30, 20)), ((9, 16), (20, 35))]
)
def test_a_picture_is_read_as_by_torchvision(tmp_path, size, resized):
    """Resize(20) and CenterCrop(13) of torchvision, written out."""
    generator = np.random.default_rng(0)
    array = generator.integers(0, 256, (*reversed(size), 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / 'a.png')
    recipe = Recipe(resize=20, crop=13, mean=(1, 2, 3), std=(4, 5, 6))
    whole = Image.fromarray(array).resize(resized, Image.Resampling.BICUBIC)
    left, top = (round((n - 13) / 2) for n in resized)
    middle = np.asarray(whole, dtype=np.float32)[top : top + 13, left : left + 13]
    expected = (middle - np.array([1, 2, 3])) / np.array([4, 5, 6])
    found = read_picture(tmp_path / 'a.png', recipe)
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, rtol=1e-6)


@pytest.mark.parametrize('mode', ['L', 'RGBA', '1', 'CMYK'])
def test_pictures_of_every_mode(tmp_path, mode):
    path = tmp_path / ('a.tif' if mode == 'CMYK' else 'a.png')
    Image.new('RGB', (9, 7), (255, 255, 255)).convert(mode).save(path)
    found = read_picture(path, PLAIN)
    assert found.shape == (3, 4, 4)
    assert found.flatten().tolist() == [255] * 48


def test_wrong_recipes():
    with pytest.raises(ValueError, match='crop is 5 and resize 4; expected a crop'):
        Pictures([], Recipe(resize=4, crop=5))
    with pytest.raises(ValueError, match="interpolation is 'cubic'; expected one of"):
        Pictures([], Recipe(interpolation='cubic'))


def test_published_figures():
    assert published_top1('spatial_mamba', 'tiny', RELEASED) == 83.5
    assert published_top1('vminet', 'ti', RELEASED) is None
    assert published_top1('vminet', None, RELEASED) is None
