"""Datasets of any kind and wrappers around them are read through what they parse."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, DefaultScope
from openmmlab import bad_data
from openmmlab.bad_data import BOX, CLASSES, NAMES, SIZE
from openmmlab.engine import tiny

from mmssm.openmmlab.data_checks import Depth, check
from mmssm.openmmlab.data_checks.report import Report

NAN = float('nan')
POLYGON = [5, 6, 25, 6, 25, 26, 5, 26]


@DATASETS.register_module(name='OddDataset')
class Odd:
    """No dataset of mmengine's kind."""

    metainfo = dict(classes=CLASSES)

    def __init__(self, picture='', fail=False):
        if fail:
            raise OSError('no way in')
        self.picture = picture

    def __len__(self):
        return 2

    def get_data_info(self, index):
        box = dict(bbox=np.array([1, 2, 3, 4.0]), bbox_label=0, ignore_flag=0)
        return dict(instances=[box], img_path=self.picture)

    def __getitem__(self, index):
        return index


def findings(dataset, scope='mmdet', model=None):
    cfg = dict(train_dataloader=dict(dataset=dataset), train_cfg={}, model=model or {})
    report = Report(silent=True)
    with DefaultScope.overwrite_default_scope(scope):
        check(ConfigDict(cfg), Depth(), report)
    return report.findings


def words_of(dataset, **more):
    return '\n'.join(map(str, findings(dataset, **more)))


class Plain:
    """mmengine's own annotation format."""

    def __init__(self, root: Path) -> None:
        self.root = root
        bad_data.write_pictures(root / 'pictures')
        box = dict(bbox=list(BOX), bbox_label=0, ignore_flag=0, mask=[POLYGON])
        self.entries = [
            dict(
                img_path=f'{name}.jpg',
                width=SIZE[0],
                height=SIZE[1],
                instances=[dict(box), dict(box, bbox_label=1)],
            )
            for name in NAMES
        ]
        self.classes = CLASSES

    def dataset(self, **changes):
        content = dict(metainfo=dict(classes=self.classes), data_list=self.entries)
        (self.root / 'list.json').write_text(json.dumps(content))
        loading = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs'),
        ]
        settings = dict(
            type='BaseDetDataset',
            ann_file='list.json',
            data_root=str(self.root),
            data_prefix=dict(img_path='pictures'),
            pipeline=loading,
        )
        return settings | changes


@pytest.fixture
def plain(tmp_path):
    return Plain(tmp_path)


def test_a_sound_list_has_nothing(plain):
    assert findings(plain.dataset()) == []


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('bbox', [1, 2, 3], 'boxes that are not four numbers'),
        ('bbox', None, 'boxes that are not four numbers'),
        ('bbox', [1, 2, NAN, 4], 'NaN or infinity'),
        ('bbox', [9, 9, 9, 12], 'make loss_bbox NaN'),
        ('bbox', [9, 9, 2, 12], 'make loss_bbox NaN'),
        ('bbox', [90, 9, 99, 12], 'outside of their pictures'),
        ('bbox_label', 2, 'labels outside of the 2 classes'),
        ('bbox_label', -1, 'labels outside of the 2 classes'),
        ('bbox_label', 'ant', 'labels outside of the 2 classes'),
        ('mask', [[1, 2, 3, 4]], 'fewer than three points'),
        ('mask', dict(counts=[], size=[30, 40]), 'without a single pixel'),
    ],
)
def test_faults_of_parsed_instances(plain, key, value, words):
    plain.entries[1]['instances'][0][key] = value
    text = words_of(plain.dataset())
    assert words in text
    assert f'{NAMES[1]}.jpg, object 0' in text


def test_boxes_that_reach_beyond_are_warnings(plain):
    plain.entries[1]['instances'][0]['bbox'] = [1, 2, 99, 9]
    (finding,) = findings(plain.dataset())
    assert (finding.kind, 'reach beyond' in finding.what) == ('warning', True)


def test_flags_names_and_classes_without_objects(plain):
    for entry in plain.entries:
        entry['instances'][1]['bbox_label'] = 0
        for instance in entry['instances']:
            instance['ignore_flag'] = 1
    text = words_of(plain.dataset())
    assert 'all 6 objects are to be ignored' in text
    assert 'classes without a single object: bee' in text
    plain.classes = ()
    assert 'does not name the classes' in words_of(plain.dataset())


def test_instances_that_are_no_dicts(plain):
    plain.entries[0]['instances'] = ['x']
    assert 'instances that are no dicts' in words_of(plain.dataset())


def test_what_the_dataset_stops_at_is_told(plain):
    dataset = plain.dataset()
    (plain.root / 'list.json').write_text('[]')
    (finding,) = findings(dataset)
    assert 'BaseDetDataset cannot read its annotations: TypeError' in finding.what
    assert str(plain.root / 'list.json') in finding.fix


@pytest.mark.parametrize(
    ('prefix', 'had'), [({'ig': 'images'}, "'ig'"), ({}, 'no keys')]
)
def test_a_prefix_of_another_name_is_told(tmp_path, prefix, had):
    tiny.write_data(tmp_path)
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='boxes.json',
        metainfo=dict(classes=('ground', 'box')),
    )
    text = words_of(dict(dataset, data_prefix=prefix))
    assert 'cannot read its annotations' in text
    assert f"data_prefix of train_dataloader.dataset has {had}; expected 'img'" in text


def test_lists_without_a_picture(plain):
    plain.entries = []
    assert 'name no picture at all' in words_of(plain.dataset())


def test_pictures_of_parsed_entries(plain):
    path = plain.root / 'pictures' / f'{NAMES[2]}.jpg'
    path.unlink()
    assert f'1 of 3 pictures do not exist: {path}' in words_of(plain.dataset())


def test_other_datasets(tmp_path):
    path = tmp_path / 'picture.png'
    dataset = dict(type='OddDataset', picture=str(path))
    assert f'2 of 2 pictures do not exist: {path}' in words_of(dataset)
    bad_data.Image.fromarray(bad_data.picture()).save(path)
    assert words_of(dataset) == ''
    assert words_of(dict(type='OddDataset', fail=True)).count('no way in') == 1


def test_masks_are_loaded_from_any_wrapper(tmp_path):
    """Copy-paste needs masks, which only the whole dataset shows."""
    data = bad_data.Coco(tmp_path)
    inner = data.config()['train_dataloader']['dataset']
    inner['pipeline'] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
    ]
    outer = dict(
        type='MultiImageMixDataset',
        dataset=inner,
        pipeline=[dict(type='CopyPaste'), dict(type='PackDetInputs')],
    )
    found = findings(outer)
    assert [f.place for f in found] == [
        'train_dataloader.dataset (MultiImageMixDataset)'
    ]
    assert 'loading fails with' in found[0].what


def test_wrappers_that_do_not_go_together(tmp_path):
    inner = bad_data.Coco(tmp_path).config()['train_dataloader']['dataset']
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    assert findings(repeated) == []
    balanced = dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=repeated)
    text = words_of(balanced)
    assert 'train_dataloader.dataset (ClassBalancedDataset)' not in text
    assert 'loading fails with' in text
    sound = dict(balanced, dataset=inner)
    assert findings(dict(type='ConcatDataset', datasets=[sound, sound])) == []


def test_objects_that_are_all_too_small(tmp_path):
    data = bad_data.Voc(tmp_path)
    dataset = data.config()['train_dataloader']['dataset']
    dataset['filter_cfg'] = dict(bbox_min_size=100)
    (finding,) = findings(dataset)
    assert 'all 3 objects are to be ignored' in finding.what


def test_faults_inside_of_wrappers(tmp_path):
    data = bad_data.Voc(tmp_path)
    data.write(x2=BOX[0])
    inner = data.config()['train_dataloader']['dataset']
    nested = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[inner]),
    )
    (finding,) = findings(nested)
    assert finding.place == 'train_dataloader.dataset.dataset.datasets[0] (XMLDataset)'
    assert str(data.path) in finding.what


def test_cityscapes(tmp_path):
    data = bad_data.Coco(tmp_path)
    for entry in data.content['annotations']:
        entry['iscrowd'] = 1
    data.save()
    dataset = data.config(type='CityscapesDataset')['train_dataloader']['dataset']
    dataset['filter_cfg'] = dict(filter_empty_gt=True)
    text = words_of(dataset)
    assert 'are crowds (iscrowd)' in text


def test_heads_are_compared_with_the_first_classes_only(tmp_path):
    """A set of other classes is the odd one, not the heads."""
    data = bad_data.Coco(tmp_path)
    train = data.config()['train_dataloader']['dataset']
    test = dict(train, metainfo=dict(classes=('ant',)))
    cfg = dict(
        train_dataloader=dict(dataset=train),
        train_cfg={},
        test_dataloader=dict(dataset=test),
        test_cfg={},
        model=dict(bbox_head=dict(num_classes=2)),
    )
    report = Report(silent=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        check(ConfigDict(cfg), Depth(), report)
    errors = [str(f) for f in report.findings if f.kind == 'ERROR']
    assert len(errors) == 1
    assert 'other classes than train_dataloader.dataset' in errors[0]
