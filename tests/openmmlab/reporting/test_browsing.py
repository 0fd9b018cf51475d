"""What the pipeline feeds, back as the pictures that they were."""

import numpy as np
import pytest
from mmengine.config import Config
from openmmlab.engine import tiny
from PIL import Image

from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.reporting.browsing import Feed
from mmssm.openmmlab.reporting.sheets import Tile, sheet

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture
def config(tmp_path):
    """The tiny config of a task, whose pictures are flipped with a probability."""
    tiny.write_data(tmp_path / 'data')

    def read(task, flip):
        cfg = Config.fromfile(tiny.write_config(tmp_path, task))
        for step in cfg.train_dataloader.dataset.pipeline:
            if step.type == 'RandomFlip':
                step.prob = flip
        return cfg

    return read


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
@pytest.mark.parametrize('channels', ['bgr', 'rgb'])
def test_pictures_come_back_as_they_were(config, tmp_path, task, channels):
    cfg = config(task, 0.0)
    cfg.model.data_preprocessor.bgr_to_rgb = channels == 'rgb'
    real = np.asarray(Image.open(tmp_path / 'data/images/2.png'))
    assert np.array_equal(Feed(cfg)[1].image, real)
    turned = config(task, 1.0)
    assert np.array_equal(Feed(turned)[1].image, real[:, ::-1])


def test_objects_are_where_they_are_drawn(config):
    for flip in (0.0, 1.0):
        fed = Feed(config('detection', flip))[0]
        ((left, top, right, bottom),) = fed.sample.gt_instances.bboxes.int().tolist()
        inside = fed.image[top:bottom, left:right]
        assert inside.min() >= 150  # boxes are bright, the ground is not
        assert (fed.image >= 150).sum() == inside.size


def test_label_maps_lie_on_their_pictures(config):
    fed = Feed(config('segmentation', 1.0))[0]
    labels = fed.sample.gt_sem_seg.data[0].numpy()
    assert np.array_equal(labels == 1, fed.image.min(2) >= 150)


def test_the_same_seed_gives_the_same(config):
    cfg = config('detection', 0.5)

    def pictures(seed):
        feed = Feed(cfg, seed=seed)
        return [feed[i].image.tobytes() for i in range(len(feed))]

    first = pictures(0)
    assert pictures(0) == first
    assert any(pictures(seed) != first for seed in (1, 2, 3))


def test_tiles_say_what_is_in_them(config):
    (tile,) = Feed(config('detection', 0.0)).tiles([2])
    assert tile.words == ('3.png', '64 × 64 · 1 objects')
    (tile,) = Feed(config('segmentation', 0.0)).tiles([2])
    assert tile.words == ('3.png', '64 × 64 · 2 classes, 0 % ignored')
    assert [name for name, _ in tile.legend] == ['ground 86 %', 'box 14 %']


def test_what_cannot_be_shown_is_said(config):
    cfg = config('detection', 0.0)
    cfg.train_dataloader.dataset.pipeline.pop()
    with pytest.raises(UserError, match='gives NoneType as inputs'):
        Feed(cfg)[0]
    cfg.train_dataloader.dataset.pipeline[0] = dict(type='Resize', scale=(8, 8))
    with pytest.raises(UserError, match='sample 0 fails with'):
        Feed(cfg)[0]
    cfg.train_dataloader.dataset.ann_file = 'absent.json'
    with pytest.raises(UserError, match='train_dataloader cannot be built'):
        Feed(cfg)


def test_sheets_hold_all_tiles():
    tiles = [
        Tile(np.full((30 + 10 * i, 40, 3), 20 * i, np.uint8), ('x' * 500,))
        for i in range(1, 6)
    ]
    drawn = sheet(tiles, 2, width=400)
    assert drawn.shape[1] == 400
    assert {20 * i for i in range(1, 6)} <= {*np.unique(drawn)}
    with pytest.raises(ValueError, match='no tiles'):
        sheet([], 2)
