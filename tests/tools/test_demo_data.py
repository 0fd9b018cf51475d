"""The demo's data sets: what COCO's tools read in them, and when they are made anew."""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from mmengine.config import Config
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tools.demo import data, scenes

CONFIGS = Path(__file__).parents[2] / 'configs/demo'
COUNTS = dict(train=5, val=3)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'demo'
    data.make(folder, 0, COUNTS)
    return folder


@pytest.fixture(params=['train', 'val'])
def coco(root, request):
    return COCO(str(root / f'shapes_coco/annotations/instances_{request.param}.json'))


def test_same_seed_same_bytes(root, tmp_path):
    data.make(tmp_path / 'again', 0, COUNTS)
    data.make(tmp_path / 'other', 1, COUNTS)
    assert data.digest(tmp_path / 'again') == data.digest(root)
    for picture in root.rglob('*.jpg'):
        other = tmp_path / 'other' / picture.relative_to(root)
        assert picture.read_bytes() != other.read_bytes()


def test_more_pictures_leave_the_first_as_they_are(root, tmp_path):
    data.make(tmp_path / 'more', 0, dict(train=7, val=3))
    for picture in (root / 'shapes_coco/train').iterdir():
        other = tmp_path / 'more/shapes_coco/train' / picture.name
        assert other.read_bytes() == picture.read_bytes()


def test_photographs_are_there_and_disjoint():
    train, val = data.PHOTOS['train'], data.PHOTOS['val']
    assert not set(train) & set(val)
    # two views of one scene must not face each other
    assert len({name.split('_')[0] for name in (*train, *val)}) == len(train + val)
    for split in ('train', 'val'):
        for photo in data.load_photos(split):
            assert min(photo.shape[:2]) >= max(data.HEIGHTS)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_are_those_of_coco(mask):
    encoded = dict(size=list(mask.shape), counts=data.run_lengths(mask))
    decoded = coco_mask.decode(coco_mask.frPyObjects(encoded, *mask.shape))
    assert (decoded == mask).all()


def test_coco_boxes_and_areas_are_those_of_the_masks(coco):
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(scenes.CLASSES)
    for entry in coco.anns.values():
        mask = coco.annToMask(entry)
        encoded = coco_mask.encode(np.asfortranarray(mask))
        assert mask.sum() == entry['area'] >= scenes.MIN_PIXELS
        assert coco_mask.toBbox(encoded).tolist() == entry['bbox']


def test_masks_hold_visible_pixels_only(coco):
    for image_id, image in coco.imgs.items():
        masks = [coco.annToMask(entry) for entry in coco.imgToAnns[image_id]]
        assert len(masks) >= 2
        assert np.sum(masks, axis=0).max() == 1
        assert masks[0].shape == (image['height'], image['width'])


def test_pictures_have_the_stated_sizes(root, coco):
    split = 'train' if len(coco.imgs) == COUNTS['train'] else 'val'
    for image in coco.imgs.values():
        picture = cv2.imread(str(root / 'shapes_coco' / split / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)


@pytest.mark.parametrize('split', ['training', 'validation'])
def test_label_maps_fit_their_pictures(root, split):
    maps = sorted((root / 'shapes_ade/annotations' / split).iterdir())
    pictures = sorted((root / 'shapes_ade/images' / split).iterdir())
    assert [path.stem for path in maps] == [path.stem for path in pictures]
    for label_path, picture_path in zip(maps, pictures, strict=True):
        labels = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8
        assert labels.shape == cv2.imread(str(picture_path)).shape[:2]
        assert 1 in labels
        assert 1 < labels.max() <= len(scenes.CLASSES) + 1
        assert labels.min() == 1


def test_classes_of_configs_and_data_agree(root):
    names = (root / 'shapes_ade/classes.txt').read_text().split()
    for path in CONFIGS.glob('*_shapes.py'):
        metainfo = Config.fromfile(path).train_dataloader.dataset.metainfo
        wanted = names if 'upernet' in path.name else names[1:]
        assert list(metainfo.classes) == wanted, path.name


@given(st.integers(0, 2**32 - 1))
def test_scenes_have_any_size(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(40, 200, 2).tolist())
    photo = rng.integers(0, 255, (250, 230, 3)).astype(np.uint8)
    image, instances = scenes.draw_scene(rng, [photo], size, 3)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    for instance in instances:
        assert instance.mask.shape == size
        assert instance.mask.sum() >= scenes.MIN_PIXELS


def test_shapes_are_what_their_names_say():
    side = np.linspace(-1.1, 1.1, 221)
    v, u = np.meshgrid(side, side, indexing='ij')
    shapes = {kind.name: kind.inside(u, v) for kind in scenes.KINDS}
    cell = (side[1] - side[0]) ** 2
    areas = {name: inside.sum() * cell for name, inside in shapes.items()}
    assert areas['ball'] == areas['melon'] == pytest.approx(np.pi, rel=0.01)
    assert areas['crate'] == pytest.approx(1.7**2, rel=0.02)
    assert areas['ring'] == pytest.approx(np.pi * (1 - 0.5**2), rel=0.01)
    assert areas['sail'] == pytest.approx(1.8 * 1.8 / 2, rel=0.02)
    # ten triangles between a tip at 1 and a notch at 0.45
    assert areas['star'] == pytest.approx(5 * 0.45 * np.sin(np.pi / 5), rel=0.02)
    assert not shapes['ring'][110, 110]


def test_star_has_five_equal_points():
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-1, 1, (2, 1000))
    turn = np.exp(2j * np.pi / 5)
    turned = (u + 1j * v) * turn
    star = scenes.KINDS[1].inside
    assert (star(u, v) == star(turned.real, turned.imag)).mean() > 0.999


def test_mask_ends_where_the_object_covers_half_of_a_pixel(monkeypatch):
    opacity = np.zeros((40, 50), np.float32)
    opacity[10:20, 10:30] = 1
    opacity[20, 10:30], opacity[10:20, 30] = 0.6, 0.4
    colours = np.zeros((40, 50, 3), np.float32)
    monkeypatch.setattr(scenes, '_paste', lambda *args: (opacity, colours))
    photo = np.full((60, 60, 3), 200, np.uint8)
    rng = np.random.default_rng(0)
    _, (instance,) = scenes.draw_scene(rng, [photo], (40, 50), 1)
    assert (instance.mask == (opacity > 0.5)).all()
    assert instance.mask.sum() == 11 * 20


def test_unknown_fill_is_refused():
    kind = scenes.KINDS[0]._replace(fills=('plaid',))
    grid = np.zeros((3, 3))
    with pytest.raises(ValueError, match="unknown fill 'plaid'"):
        scenes._fill(np.random.default_rng(0), kind, grid, grid)


class TestStaleness:
    """When the data are made anew."""

    @pytest.fixture
    def made(self, tmp_path):
        data.make(tmp_path / 'demo', 0, COUNTS)
        return tmp_path / 'demo'

    @staticmethod
    def reason(folder, seed=0, counts=COUNTS):
        settings = data.settings(seed, counts)
        return data.why_not_current(folder, settings)

    def test_complete_data_are_current(self, made):
        assert self.reason(made) is None

    def test_other_settings_are_not(self, made):
        assert 'seed' in self.reason(made, seed=1)
        assert 'images' in self.reason(made, counts=dict(train=6, val=3))
        assert 'none yet' in self.reason(made.with_name('elsewhere'))

    @pytest.mark.parametrize('change', ['lose', 'alter', 'add', 'cut manifest'])
    def test_changed_files_are_noticed(self, made, change):
        picture = next((made / 'shapes_ade/images/training').iterdir())
        if change == 'lose':
            picture.unlink()
        elif change == 'alter':
            picture.write_bytes(picture.read_bytes()[:-1])
        elif change == 'add':
            picture.with_name('another.jpg').write_bytes(b'')
        else:
            manifest = made / 'manifest.json'
            manifest.write_text(manifest.read_text()[:-20])
        assert self.reason(made) is not None
        data.make(made, 0, COUNTS)
        assert self.reason(made) is None

    def test_failing_leaves_the_old_data(self, made, monkeypatch):
        before = data.digest(made)

        def fail(*args):
            raise OSError('disk full')

        monkeypatch.setattr(data, 'write_ade', fail)
        with pytest.raises(OSError, match='disk full'):
            data.make(made, 1, COUNTS)
        assert data.digest(made) == before
        assert self.reason(made) is None

    def test_leftovers_of_a_killed_run_do_not_get_in(self, made):
        strange = made.with_name('demo.new') / 'shapes_coco/train/strange.jpg'
        strange.parent.mkdir(parents=True)
        strange.write_bytes(b'')
        data.make(made, 1, COUNTS)
        assert self.reason(made, seed=1) is None
        assert sorted(os.listdir(made.parent)) == ['demo']

    def test_files_of_others_are_not_removed(self, tmp_path):
        (tmp_path / 'thesis.tex').write_text('')
        with pytest.raises(SystemExit, match=r'thesis\.tex'):
            data.make(tmp_path, 0, COUNTS)
        assert (tmp_path / 'thesis.tex').exists()

    def test_command_makes_once(self, tmp_path, monkeypatch, capsys):
        command = ['data.py', f'--out={tmp_path}/d', '--train=2', '--val=1']
        monkeypatch.setattr(sys, 'argv', command)
        data.main()
        data.main()
        assert 'up to date' in capsys.readouterr().out
        manifest = json.loads((tmp_path / 'd/manifest.json').read_text())
        assert manifest['images'] == dict(train=2, val=1)

    def test_lacking_photographs_are_named(self, monkeypatch):
        monkeypatch.setitem(data.PHOTOS, 'val', ('unicorn.png',))
        with pytest.raises(SystemExit, match=r'unicorn\.png'):
            data.load_photos('val')
