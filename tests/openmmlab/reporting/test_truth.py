"""The truth of pictures, in every format that mmdet and mmseg read."""

import json

import numpy as np
import pytest
from mmengine.config import Config
from openmmlab.engine import tiny
from PIL import Image
from pycocotools import mask as coco_mask

from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.reporting.data_summary import summarise
from mmssm.openmmlab.reporting.truth import Truths

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture
def config(tmp_path):
    """The tiny config of a task on its data."""
    tiny.write_data(tmp_path / 'data')

    def read(task):
        return Config.fromfile(tiny.write_config(tmp_path, task))

    return read


def test_coco_with_a_crowd_and_masks_of_both_forms(config, tmp_path):
    path = tmp_path / 'data/boxes.json'
    content = json.loads(path.read_text())
    left, top, wide, high = content['annotations'][0]['bbox']
    corners = [left, top, left + wide, top, left + wide, top + high, left, top + high]
    content['annotations'][0]['segmentation'] = [corners]
    counts = [8, 64 * 64 - 8]
    content['annotations'].append(
        dict(
            id=99,
            image_id=1,
            category_id=1,
            bbox=[1, 1, 60, 60],
            area=3600,
            iscrowd=1,
            segmentation=dict(size=[64, 64], counts=counts),
        )
    )
    path.write_text(json.dumps(content))
    truths = Truths(config('detection'))
    assert truths.classes == ('ground', 'box')
    assert len(truths) == tiny.COUNT
    assert truths.has_masks()
    first = truths[0]
    box = [left, top, left + wide, top + high]
    assert first.boxes.tolist() == [box, [1, 1, 61, 61]]
    assert first.labels.tolist() == [1, 0]
    assert first.ignored.tolist() == [False, True]
    areas = coco_mask.area(first.masks)
    assert areas.tolist() == [576, 64 * 64 - 8]
    assert truths[1].masks is None
    facts = dict(summarise(truths).facts)
    assert facts['objects'] == '4, 1.0 in a picture'
    assert facts['crowds and difficult ones, ignored'] == '1'
    assert facts['areas of boxes'].startswith('100 % small')


def test_voc(config, tmp_path):
    cfg = config('detection')
    root = tmp_path / 'voc'
    for folder in ('Annotations', 'JPEGImages', 'ImageSets'):
        (root / folder).mkdir(parents=True)
    Image.new('RGB', (40, 30)).save(root / 'JPEGImages/a.jpg')
    (root / 'ImageSets/test.txt').write_text('a\n')
    objects = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>'
        '<xmin>3</xmin><ymin>5</ymin><xmax>13</xmax><ymax>25</ymax></bndbox></object>'
        for name, difficult in (('box', 0), ('ground', 1))
    )
    (root / 'Annotations/a.xml').write_text(
        f'<annotation><size><width>40</width><height>30</height></size>{objects}'
        '</annotation>'
    )
    cfg.test_dataloader.dataset = dict(
        type='XMLDataset',
        data_root=str(root),
        ann_file='ImageSets/test.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('ground', 'box')),
        test_mode=True,
        pipeline=[],
    )
    truths = Truths(cfg)
    truth = truths[0]
    assert truth.labels.tolist() == [1, 0]
    assert truth.ignored.tolist() == [False, True]
    assert (truth.boxes[:, 2:] - truth.boxes[:, :2]).tolist() == [[10, 20]] * 2
    assert truths.pictures[0].path.endswith('JPEGImages/a.jpg')


def test_label_maps_as_the_pipeline_reads_them(config, tmp_path):
    cfg = config('segmentation')
    labels = np.asarray(Image.open(tmp_path / 'data/maps/1.png'))
    assert np.array_equal(Truths(cfg)[0].labels, labels)
    cfg.test_dataloader.dataset.reduce_zero_label = True
    cfg.test_dataloader.dataset.pipeline[1].reduce_zero_label = True
    reduced = Truths(cfg)[0].labels
    assert np.unique(reduced).tolist() == [0, 255]
    assert np.array_equal(reduced == 0, labels == 1)
    summary = summarise(Truths(cfg))
    # all boxes have 24 × 24 of 64 × 64 pixels
    assert summary.classes == [('ground', 576 * tiny.COUNT, 1.0), ('box', 0, 0.0)]
    assert dict(summary.facts)['pixels ignored'] == '85.9 %'


def test_wrappers_are_looked_into(config):
    cfg = config('segmentation')
    inner = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner, inner])
    truths = Truths(cfg)
    assert len(truths) == 2 * tiny.COUNT
    assert np.array_equal(truths[tiny.COUNT].labels, truths[0].labels)
    other = dict(inner, metainfo=dict(classes=('x', 'y')))
    cfg.test_dataloader.dataset.datasets = [inner, other]
    with pytest.raises(UserError, match='other classes than the datasets before it'):
        Truths(cfg)


def test_what_cannot_be_used_is_said(config, tmp_path):
    cfg = config('detection')
    with pytest.raises(UserError, match='lacks val2_dataloader'):
        Truths(cfg, 'val2')
    cfg.test_dataloader.dataset.ann_file = 'absent.json'
    with pytest.raises(UserError, match=r'test_dataloader\.dataset .*absent\.json'):
        Truths(cfg)
    (tmp_path / 'data/maps/2.png').write_text('no picture')
    truths = Truths(config('segmentation'))
    with pytest.raises(UserError, match=r'label map .*maps/2\.png of .*images/2\.png'):
        truths[1]
