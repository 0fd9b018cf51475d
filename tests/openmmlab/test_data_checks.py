"""What the check of data says about data that are broken on purpose."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmssm.openmmlab import data_checks
from mmssm.openmmlab.data_checks.report import Report, sample, similar
from tools.demo.data import make

ROOT = Path(__file__).parents[2]
CODE = 'from mmssm.openmmlab.cli import check_data; check_data()'
COMMAND = [sys.executable, '-c', CODE]
CONFIGS = dict(
    mmdet='mask-rcnn_spatialmamba-demo_fpn_shapes.py',
    mmseg='spatialmamba-demo_upernet_shapes.py',
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A small data set where the demo's configs look for it."""
    make(tmp_path / 'data/demo', 0, dict(train=6, val=3))
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'data/demo'


@pytest.fixture
def findings(data, capsys):
    """Checks a config after some options; returns (errors, warnings, text)."""

    def run(scope, samples=None, **options):
        cfg = Config.fromfile(ROOT / 'configs/demo' / CONFIGS[scope])
        cfg.merge_from_dict({k.replace('__', '.'): v for k, v in options.items()})
        with DefaultScope.overwrite_default_scope(scope):
            report = data_checks.check(cfg, data_checks.Depth(samples))
        return report.errors, report.warnings, capsys.readouterr().out

    return run


class Coco:
    """The training annotations, open for mischief."""

    def __init__(self, data):
        self.path = data / 'shapes_coco/annotations/instances_train.json'
        self.pictures = data / 'shapes_coco/train'
        self.content = json.loads(self.path.read_text())

    def save(self):
        self.path.write_text(json.dumps(self.content))


@pytest.fixture
def coco(data):
    return Coco(data)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_sound_data_pass(findings, scope):
    errors, _, text = findings(scope)
    assert errors == 0, text
    assert '6 pictures are used' in text
    assert '3 pictures are used' in text


def _cut(coco):
    text = coco.path.read_text()
    coco.path.write_text(text[: len(text) // 2])


def _no_list(coco):
    del coco.content['categories']


def _bare_image(coco):
    del coco.content['images'][0]['width']


def _same_id(coco):
    coco.content['images'][1]['id'] = coco.content['images'][0]['id']


def _plural(coco):
    coco.content['categories'][1]['name'] += 's'


def _reversed(coco):
    coco.content['categories'].reverse()


def _other_names(coco):
    for category in coco.content['categories']:
        category['name'] = f'thing {category["id"]}'


def _same_annotation(coco):
    coco.content['annotations'][1]['id'] = coco.content['annotations'][0]['id']


def _lost_image(coco):
    coco.content['annotations'][0]['image_id'] = 'x.jpg'


def _unknown_category(coco):
    coco.content['annotations'][0]['category_id'] = 99


def _corners(coco):
    for entry in coco.content['annotations']:
        x, y, w, h = entry['bbox']
        entry['bbox'] = [x, y, x + w, y + h]


def _fractions(coco):
    for entry in coco.content['annotations']:
        entry['bbox'] = [value / 200 for value in entry['bbox']]


def _outside(coco):
    coco.content['annotations'][0]['bbox'] = [500, 500, 10, 10]


def _no_masks(coco):
    for entry in coco.content['annotations']:
        entry.pop('segmentation')


def _line(coco):
    coco.content['annotations'][0]['segmentation'] = [[1, 1, 5, 5]]


def _lost_picture(coco):
    next(coco.pictures.iterdir()).unlink()


def _cut_picture(coco):
    path = next(coco.pictures.iterdir())
    path.write_bytes(path.read_bytes()[:2000])


def _scaled(coco):
    path = next(coco.pictures.iterdir())
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (50, 60)))


def _exif(coco):
    path = next(coco.pictures.iterdir())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def _no_objects(coco):
    coco.content['annotations'] = []


@pytest.mark.parametrize(
    'break_it, words',
    [
        (_cut, 'not readable as JSON'),
        (_no_list, 'has no list categories'),
        (_bare_image, 'lack width'),
        (_same_id, '1 pictures have the id of another'),
        (_plural, "the file has 'stars'"),
        (_reversed, 'another order'),
        (_other_names, "classes=('thing 1', 'thing 2'"),
        (_same_annotation, 'occur more than once'),
        (_lost_image, 'not a file name'),
        (_unknown_category, 'without a category: 99'),
        (_corners, '(x1, y1, x2, y2)'),
        (_fractions, 'relative to the size'),
        (_outside, 'outside of their pictures'),
        (_no_masks, 'with_mask=True'),
        (_line, 'fewer than three points'),
        (_lost_picture, '1 of 6 pictures do not exist'),
        (_cut_picture, 'unreadable'),
        (_scaled, 'another size'),
        (_exif, 'color_ignore_orientation'),
        (_no_objects, 'has no annotations'),
    ],
    ids=lambda value: value.__name__ if callable(value) else '',
)
def test_broken_coco_is_explained(findings, coco, break_it, words):
    break_it(coco)
    if break_it not in (_cut, _lost_picture, _cut_picture, _scaled, _exif):
        coco.save()
    errors, _, text = findings('mmdet')
    assert errors > 0
    assert words in text


def test_empty_boxes_and_classes_are_warnings(findings, coco):
    coco.content['annotations'][0]['bbox'][2] = 0
    for entry in coco.content['annotations']:
        entry['category_id'] = 1
    coco.save()
    errors, warnings, text = findings('mmdet')
    assert errors == 0
    assert 'without width or height' in text
    assert 'without a single object' in text
    assert warnings >= 2


@pytest.mark.parametrize(
    'scope, options, words',
    [
        (
            'mmdet',
            dict(model__roi_head__bbox_head__num_classes=80),
            'num_classes is 80',
        ),
        ('mmseg', dict(model__decode_head__num_classes=150), 'num_classes is 150'),
        (
            'mmdet',
            dict(train_dataloader__dataset__metainfo=dict(classes='cat')),
            "classes=('cat',)",
        ),
        (
            'mmdet',
            dict(train_dataloader__dataset__ann_file='annotations/none.json'),
            'there is nothing at',
        ),
        (
            'mmdet',
            dict(test_dataloader__dataset__metainfo=dict(classes=('star', 'ball'))),
            'other classes than train_dataloader.dataset',
        ),
        (
            'mmdet',
            dict(test_evaluator__ann_file='data/demo/manifest.json'),
            'metrics would be wrong',
        ),
        (
            'mmseg',
            dict(train_dataloader__dataset__img_suffix='.jpeg'),
            'it has 6 *.jpg',
        ),
        (
            'mmseg',
            dict(train_dataloader__dataset__seg_map_suffix='_labels.png'),
            "seg_map_suffix='.png'",
        ),
        (
            'mmseg',
            dict(train_dataloader__dataset__reduce_zero_label=False),
            'the values begin at 1: reduce_zero_label=True',
        ),
        (
            'mmseg',
            dict(
                train_dataloader__dataset__pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations', reduce_zero_label=False),
                ]
            ),
            'in the dataset only',
        ),
        (
            'mmseg',
            dict(
                train_dataloader__dataset__pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='Normalise'),
                ]
            ),
            'loading fails',
        ),
        ('mmseg', dict(train_dataloader__dataset__type='ADE20KDataset'), 'BaseSeg'),
    ],
)
def test_wrong_configs_are_explained(findings, scope, options, words):
    errors, _, text = findings(scope, **options)
    assert errors > 0
    assert words in text


def _relabel(data, change):
    for path in (data / 'shapes_ade/annotations/training').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        Image.fromarray(change(labels)).save(path)


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda m: m + 40, 'values outside of the'),
        (lambda m: np.stack([m] * 3, axis=-1), 'colours instead of class numbers'),
        (lambda m: m[:-1], 'differ in size'),
        (lambda m: m.astype(np.uint16) * 300, 'outside of 0 to 255'),
        (lambda m: np.full_like(m, 255), 'no opened label map has a labelled pixel'),
    ],
)
def test_broken_label_maps_are_explained(findings, data, change, words):
    _relabel(data, change)
    errors, _, text = findings('mmseg')
    assert errors > 0
    assert words in text


def test_palette_files_are_read_by_index(findings, data):
    for path in (data / 'shapes_ade/annotations/training').iterdir():
        image = Image.fromarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), 'L')
        image.putpalette(list(range(255, -1, -1)) * 3)
        image.save(path)
    errors, _, text = findings('mmseg')
    assert errors == 0, text


def test_ignored_class_is_suspected(findings, data):
    _relabel(data, lambda labels: labels - 1)
    errors, _, text = findings('mmseg')
    assert errors == 0
    assert 'if 0 is a class, reduce_zero_label=False' in text


def test_pictures_of_both_splits_are_noticed(findings):
    errors, warnings, text = findings(
        'mmseg',
        test_dataloader__dataset__data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
    )
    assert errors == 0
    assert warnings >= 1
    assert 'pictures of both' in text


def test_wrapped_datasets_are_looked_into(findings):
    cfg = Config.fromfile(ROOT / 'configs/demo' / CONFIGS['mmdet'])
    inner = cfg.train_dataloader.dataset
    part = dict(type='RepeatDataset', times=2, dataset=inner)
    both = dict(type='ConcatDataset', datasets=[part, dict(inner, ann_file='x.json')])
    _, _, text = findings('mmdet', train_dataloader__dataset=dict(both, _delete_=True))
    assert 'train_dataloader.dataset.datasets[0].dataset (CocoDataset)' in text
    assert 'train_dataloader.dataset.datasets[1].ann_file: there is nothing' in text


def test_one_sample_opens_one_file(findings):
    assert '1 of 6 pictures opened' in findings('mmdet', samples=1)[2]


@pytest.mark.parametrize(
    'name, meant',
    [
        ('Ball', 'ball'),
        ('traffic_light', 'traffic light'),
        ('crate', 'crates'),
        ('aeroplane', 'airplane'),
        ('cat', None),
    ],
)
def test_similar_names_are_found(name, meant):
    names = ['ball', 'traffic light', 'crates', 'airplane', 'dog']
    assert similar(name, names) == meant


def test_samples_are_spread_evenly():
    assert sample(range(10), 5) == [0, 2, 4, 6, 8]
    assert sample(range(3), 5) == sample(range(3), None) == [0, 1, 2]


def test_report_counts(capsys):
    report = Report()
    report.error('this', 'that')
    report.warning('this', 'that')
    assert (report.errors, report.warnings) == (1, 1)
    assert 'ERROR: this\n    Fix: that' in capsys.readouterr().out


@pytest.mark.parametrize(
    'options, status, words',
    [
        ([], 0, '0 errors'),
        (['--cfg-options', 'test_dataloader.dataset.data_root=nowhere'], 1, 'nowhere'),
    ],
)
def test_command_tells_by_its_exit_status(data, options, status, words):
    command = [*COMMAND, str(ROOT / 'configs/demo' / CONFIGS['mmdet']), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=data.parents[1])
    assert done.returncode == status, done.stderr
    assert words in done.stdout


def test_command_refuses_an_absent_config(tmp_path):
    command = [*COMMAND, 'absent.py']
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert 'absent.py' in done.stderr
    assert 'Traceback' not in done.stderr
