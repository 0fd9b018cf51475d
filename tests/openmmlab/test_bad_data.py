"""Every bad picture and annotation is named, with its file and a way out."""

import json
import random
import sys
import types

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from openmmlab import bad_data
from openmmlab.bad_data import BOX, CLASSES, FORMATS, NAMES, PICTURES, SIZE
from PIL import Image

from mmssm.openmmlab.data_checks import Depth, check
from mmssm.openmmlab.data_checks.report import Report


@pytest.fixture(autouse=True)
def lvis(monkeypatch):
    """Stands in for the package of LVIS, which reads the same JSON."""
    from mmdet.datasets.api_wrappers import COCO

    monkeypatch.setitem(sys.modules, 'lvis', types.SimpleNamespace(LVIS=COCO))


def findings(cfg):
    report = Report(silent=True)
    with DefaultScope.overwrite_default_scope(cfg['default_scope']):
        check(ConfigDict(cfg), Depth(), report)
    return report.findings


def found(cfg, words, kind='ERROR'):
    """The text of the finding with these words; all of them when there is none."""
    all_of_them = findings(cfg)
    for finding in all_of_them:
        if words in finding.what:
            assert finding.kind == kind
            assert finding.fix
            return finding.what
    raise AssertionError('\n'.join(map(str, all_of_them)) or 'nothing found')


@pytest.mark.parametrize('form', FORMATS)
def test_sound_sets_have_nothing(tmp_path, form):
    data = FORMATS[form](tmp_path)
    assert findings(data.config()) == []


@pytest.mark.parametrize('fault', PICTURES)
@pytest.mark.parametrize('form', FORMATS)
def test_pictures(tmp_path, form, fault):
    data = FORMATS[form](tmp_path)
    write, words = PICTURES[fault]
    path = data.pictures / f'{NAMES[1]}.jpg'
    write(path)
    if words is None:
        assert findings(data.config()) == []
        return
    stops = ('unreadable', 'do not exist')
    if (form, fault) == ('maps', 'missing'):
        text = found(data.config(), 'label maps have no picture', 'warning')
        assert str(data.path.with_name(f'{NAMES[1]}.png')) in text
        return
    text = found(data.config(), words, 'ERROR' if words in stops else 'warning')
    assert str(path) in text


def test_every_picture_that_is_only_warned_of_can_be_loaded(tmp_path):
    from mmcv.transforms import LoadImageFromFile

    for fault, (write, words) in PICTURES.items():
        if words in ('unreadable', 'do not exist'):
            continue
        write(tmp_path / fault)
        loaded = LoadImageFromFile()(dict(img_path=str(tmp_path / fault)))
        assert loaded['img'].shape[2] == 3, fault


@pytest.mark.parametrize('tag', range(1, 9))
@pytest.mark.parametrize('size', [SIZE, (30, 30)])
@pytest.mark.parametrize('form', ['coco', 'voc', 'maps'])
def test_exif(tmp_path, form, size, tag):
    data = FORMATS[form](tmp_path)
    path = data.pictures / f'{NAMES[0]}.jpg'
    bad_data.turned(tag, size)(path)
    if form == 'coco':
        data.content['images'][0].update(width=size[0], height=size[1])
        data.save()
    elif form == 'voc':
        data.write(width=size[0], height=size[1])
    else:
        data.write(bad_data.labels(0, 1, size))
    if tag == 1:
        assert findings(data.config()) == []
    else:
        text = found(data.config(), 'Exif turns or mirrors')
        assert f'{path} (orientation {tag})' in text
    unturned = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    pipeline = [unturned, *data.loading, data.packing]
    assert findings(data.config(pipeline=pipeline)) == []


@pytest.mark.parametrize('form', ['coco', 'maps'])
def test_annotations_of_the_picture_as_it_is_turned_are_right(tmp_path, form):
    data = FORMATS[form](tmp_path)
    bad_data.turned(6)(data.pictures / f'{NAMES[0]}.jpg')
    if form == 'coco':
        data.content['images'][0].update(width=SIZE[1], height=SIZE[0])
        data.save()
    else:
        data.write(bad_data.labels(0, 1, SIZE[::-1]))
    assert findings(data.config()) == []


NAN = float('nan')
COCO_BOXES = {
    'four numbers': [[], [1, 2, 3], None, '1 2 3 4', [1, 2, 3, '4'], [1, 2, 3, None]],
    'NaN or infinity': [[NAN, 1, 2, 3], [1, 2, float('inf'), 3]],
    'outside of their pictures': [[100, 1, 9, 9], [-50, 1, 9, 9]],
}


@pytest.mark.parametrize('form', ['coco', 'lvis'])
@pytest.mark.parametrize(
    'words, box', [(words, box) for words, boxes in COCO_BOXES.items() for box in boxes]
)
def test_coco_boxes(tmp_path, form, words, box):
    data = FORMATS[form](tmp_path)
    data.content['annotations'][1]['bbox'] = box
    data.save()
    text = found(data.config(), words)
    assert str(data.path) in text
    assert 'id 1 ' in text


@pytest.mark.parametrize('form', ['coco', 'lvis'])
@pytest.mark.parametrize('box', [[5, 6, 0, 3], [5, 6, 3, -2], [5, 6, 0.5, 9]])
def test_coco_boxes_that_are_dropped_are_warnings(tmp_path, form, box):
    data = FORMATS[form](tmp_path)
    data.content['annotations'][1]['bbox'] = box
    data.save()
    assert str(data.path) in found(data.config(), 'without width', 'warning')


def change(part, key, value, everywhere=False):
    """Sets a value of the second entry, or of all."""

    def apply(content):
        entries = content[part] if everywhere else content[part][1:2]
        for entry in entries:
            if value is KeyError:
                del entry[key]
            else:
                entry[key] = value

    return apply


def runs(counts, size=SIZE[::-1]):
    return dict(counts=counts, size=list(size))


AREA = SIZE[0] * SIZE[1]
COCO_FAULTS = [
    (change('annotations', 'iscrowd', 1, True), 'are crowds (iscrowd)'),
    (change('annotations', 'segmentation', [[1, 2, 3, 4]]), 'fewer than three'),
    (change('annotations', 'segmentation', [[1, 2, 3, 4, 5, 6, 7]]), 'an odd count'),
    (change('annotations', 'segmentation', [1, 2, 3, 4, 5, 6]), 'one flat list'),
    (change('annotations', 'segmentation', [[1, 2, 3, 4, 5, NAN]]), 'NaN or infin'),
    (change('annotations', 'segmentation', [['a']]), 'neither polygons nor run'),
    (change('annotations', 'segmentation', 'x'), 'neither polygons nor run'),
    (change('annotations', 'segmentation', []), 'no mask'),
    (change('annotations', 'segmentation', None), 'no mask'),
    (change('annotations', 'segmentation', runs([])), 'without a single pixel'),
    (change('annotations', 'segmentation', runs('')), 'without a single pixel'),
    (change('annotations', 'segmentation', runs([AREA])), 'without a single pixel'),
    (change('annotations', 'segmentation', runs([5, 5])), 'cannot be decoded'),
    (change('annotations', 'segmentation', runs('o')), 'cannot be decoded'),
    (change('annotations', 'segmentation', runs([9, 9], (3, 6))), 'of another size'),
    (change('annotations', 'segmentation', runs([1], (3,))), 'neither polygons'),
    (change('annotations', 'id', 0), 'occur more than once: 0'),
    (change('annotations', 'image_id', 77), '"images" does not have: ids 1'),
    (change('annotations', 'category_id', 77), 'without a category: 77'),
    (change('annotations', 'category_id', None), 'another category_id than'),
    (change('annotations', 'area', KeyError), 'lack area'),
    (change('annotations', 'area', None), 'another area than'),
    (change('images', 'id', 0), 'have the id of another: ids 0'),
    (change('images', 'width', None), 'another width than a number above 0: id 1'),
    (change('images', 'height', '30'), 'another height than'),
    (change('images', 'width', NAN), 'another width than'),
    (change('images', 'width', 41), 'another size'),
    (change('categories', 'name', CLASSES[0]), 'categories with one name: ant'),
    (change('categories', 'id', 1), 'categories with one id: 1'),
    (change('categories', 'name', None), 'another name than text'),
    (lambda content: content['images'].append(3), 'are no objects'),
    (lambda content: content['annotations'].clear(), 'has no annotations'),
    (lambda content: content.pop('images'), 'has no list images'),
]


@pytest.mark.parametrize('form', ['coco', 'lvis'])
@pytest.mark.parametrize('number', range(len(COCO_FAULTS)))
def test_coco_faults(tmp_path, form, number):
    data = FORMATS[form](tmp_path)
    break_it, words = COCO_FAULTS[number]
    break_it(data.content)
    data.save()
    text = found(data.config(), words)
    assert str(tmp_path) in text


@pytest.mark.parametrize('form', ['coco', 'panoptic'])
def test_no_damage_ends_in_a_traceback(tmp_path, form):
    data = FORMATS[form](tmp_path)
    sound = json.dumps(data.content)
    junk = [None, [], {}, '', 'x', -1, 10**30, NAN, True, [[]], {'a': 1}, 0.5]
    chance = random.Random(0)
    for _ in range(250):
        data.content = json.loads(sound)
        node = data.content
        while True:
            key = chance.choice(
                list(node) if isinstance(node, dict) else range(len(node))
            )
            if (
                isinstance(node[key], dict | list)
                and node[key]
                and chance.random() < 0.8
            ):
                node = node[key]
                continue
            break
        if chance.random() < 0.3:
            del node[key]
        else:
            node[key] = chance.choice(junk)
        data.save()
        for finding in findings(data.config()):
            assert finding.what
            assert finding.fix


@pytest.mark.parametrize(
    'changes, words',
    [
        (dict(x2=BOX[0]), 'make loss_bbox NaN'),
        (dict(y2=BOX[1] - 3), 'make loss_bbox NaN'),
        (dict(x1='nan'), 'NaN or infinity'),
        (dict(x1=500, x2=510), 'outside of their pictures'),
        (dict(x1='a'), "<xmin> is 'a', not a number"),
        (dict(x1=''), "<xmin> is '', not a number"),
        (dict(width='wide'), "<width> is 'wide', not an integer"),
        (dict(width=0), '<size> is 0 x 30'),
        (dict(name='</name><name>'), 'malformed'),
        (dict(width='</size>'), 'malformed'),
    ],
)
def test_voc_faults(tmp_path, changes, words):
    data = FORMATS['voc'](tmp_path)
    data.write(**changes)
    if words == 'malformed':
        words = 'are malformed' if 'width' in changes else None
    if words is None:
        assert found(data.config(), 'names that are no class', 'warning')
    else:
        assert str(data.path) in found(data.config(), words)


@pytest.mark.parametrize('old', ['<bndbox>', '<name>ant</name>', '<xmin>5</xmin>'])
def test_voc_files_that_lack_a_part(tmp_path, old):
    data = FORMATS['voc'](tmp_path)
    text = data.path.read_text()
    if old == '<bndbox>':
        text = text[: text.index(old)] + text[text.index('</bndbox>') + 9 :]
    data.path.write_text(text.replace(old, ''))
    assert str(data.path) in found(data.config(), 'are malformed')


def test_voc_names_and_lists(tmp_path):
    data = FORMATS['voc'](tmp_path)
    for name in NAMES:
        data.write(tmp_path / f'Annotations/{name}.xml', name='Ants')
    assert 'Ants' in found(data.config(), 'no object is of one of the classes')
    data.write(name='ant')
    assert 'Ants (2)' in found(data.config(), 'names that are no class', 'warning')
    (tmp_path / 'train.txt').write_text(f'{NAMES[0]}.jpg\n\n')
    text = found(data.config(), 'annotations do not exist')
    assert f'{NAMES[0]}.jpg.xml' in text


def test_voc_classes_without_objects_are_told_once(tmp_path):
    data = FORMATS['voc'](tmp_path)
    for name in NAMES:
        data.write(tmp_path / f'Annotations/{name}.xml')
    (finding,) = findings(data.config())
    assert 'classes without a single object: bee' in finding.what


def test_some_voc_files_of_many(tmp_path):
    """A look at a part of the files leaves the rest, and the parsing, alone."""
    data = FORMATS['voc'](tmp_path)
    data.write(tmp_path / f'Annotations/{NAMES[1]}.xml', x2=BOX[0])
    report = Report(silent=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        check(ConfigDict(data.config()), Depth(files=1, pipeline=False), report)
    assert [f.kind for f in report.findings] == ['warning']
    found(data.config(), 'make loss_bbox NaN')


def test_voc_objects_that_are_all_difficult(tmp_path):
    data = FORMATS['voc'](tmp_path)
    for path in (tmp_path / 'Annotations').iterdir():
        text = path.read_text()
        path.write_text(text.replace('<difficult>0', '<difficult>1'))
    found(data.config(), 'all 3 objects are <difficult>')


def segment(key, value):
    def apply(content):
        segments = content['annotations'][1]['segments_info'][0]
        if value is KeyError:
            del segments[key]
        else:
            segments[key] = value

    return apply


@pytest.mark.parametrize(
    'break_it, words',
    [
        (segment('bbox', []), 'four numbers'),
        (segment('bbox', [NAN, 1, 2, 3]), 'NaN or infinity'),
        (segment('bbox', [200, 1, 2, 3]), 'outside of their pictures'),
        (segment('area', KeyError), 'lack area'),
        (segment('id', 'x'), 'another id than'),
        (segment('id', 7), 'occur twice in one picture: 7 in picture 1'),
        (segment('id', 99), 'whose colours are not the segments'),
        (segment('category_id', 9), 'whose category_id is no class: 9'),
        (change('annotations', 'segments_info', None), 'another segments_info'),
        (change('annotations', 'image_id', 77), 'does not have: image_id 77'),
        (change('annotations', 'image_id', 0), 'more than one annotation: 0'),
        (change('annotations', 'file_name', 'else.png'), 'of another name'),
        (change('images', 'width', 41), 'of another size than'),
        (change('categories', 'isthing', KeyError), 'lack isthing'),
        (lambda c: c['categories'].reverse(), 'stuff stands before things'),
    ],
)
def test_panoptic_faults(tmp_path, break_it, words):
    data = FORMATS['panoptic'](tmp_path)
    break_it(data.content)
    data.save()
    assert str(tmp_path) in found(data.config(), words)


def test_panoptic_segments_that_are_dropped_and_crowds(tmp_path):
    data = FORMATS['panoptic'](tmp_path)
    segment('bbox', [5, 6, 0, 9])(data.content)
    data.save()
    text = found(data.config(), 'without width', 'warning')
    assert 'segment 257 of picture 1' in text
    for entry in data.content['annotations']:
        entry['segments_info'][0]['iscrowd'] = 1
    data.save()
    found(data.config(), 'all 3 things are crowds')


def test_panoptic_label_maps_that_are_missing(tmp_path):
    data = FORMATS['panoptic'](tmp_path)
    path = tmp_path / 'maps' / f'{NAMES[2]}.png'
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(path)
    assert str(path) in found(data.config(), 'whose colours are not the segments')
    path.write_bytes(b'x')
    assert str(path) in found(data.config(), 'unreadable')
    path.unlink()
    assert str(path) in found(data.config(), '1 of 3 label maps do not exist')


def test_a_panoptic_file_is_no_coco_file(tmp_path):
    data = FORMATS['panoptic'](tmp_path)
    fields = dict(id=1, category_id=1, bbox=[1, 1, 2, 2], area=4)
    for entry in data.content['annotations']:
        entry.update(fields)
    data.save()
    cfg = data.config(type='CocoDataset', metainfo=dict(classes=CLASSES))
    found(dict(cfg, model={}), 'is a panoptic file')


@pytest.mark.parametrize(
    'values, words',
    [
        (bad_data.labels(0, 5), 'values outside of the 2 classes: 5'),
        (np.zeros((30, 40, 3), np.uint8), 'colours instead of class numbers'),
        (bad_data.labels(0, 1, SIZE[::-1]), 'differ in size'),
        (bad_data.labels(0, 1).astype(np.uint16) * 300, 'outside of 0 to 255'),
        (bad_data.labels(0, 1).astype(np.float32) / 2, 'outside of 0 to 255'),
    ],
)
def test_label_map_faults(tmp_path, values, words):
    data = FORMATS['maps'](tmp_path)
    if values.dtype == np.float32:
        data.path.unlink()
        Image.fromarray(values).save(data.path, 'TIFF')
    else:
        data.write(values)
    assert str(data.path.with_suffix('')) in found(data.config(), words).replace(
        str(data.pictures), str(data.path.parent)
    )


def test_label_maps_that_are_missing(tmp_path):
    data = FORMATS['maps'](tmp_path)
    data.path.unlink()
    assert str(data.path) in found(data.config(), '1 of 3 pictures have no label map')


@pytest.mark.parametrize('classes', [CLASSES, ('ant', 'bee', 'cat')])
def test_binary_masks_of_white(tmp_path, classes):
    data = FORMATS['maps'](tmp_path)
    for path in data.path.parent.iterdir():
        data.write(bad_data.labels(0, 255), path)
    cfg = data.config(metainfo=dict(classes=classes))
    cfg['model'] = {}
    errors = [f for f in findings(cfg) if f.kind == 'ERROR']
    (error,) = errors
    assert f'{100 * 400 / AREA:.1f} % of the pixels' in error.what
    assert 'write 1 in the place of 255' in error.fix
    assert str(data.path.parent) in error.what
    # white as the border of an object is what 255 is for
    data.write(np.where(bad_data.labels(0, 1) == 1, 1, 255).astype(np.uint8))
    assert not [f for f in findings(cfg) if f.kind == 'ERROR']


def test_maps_of_which_most_is_ignored(tmp_path):
    data = FORMATS['maps'](tmp_path)
    for path in data.path.parent.iterdir():
        values = bad_data.labels(255, 1)
        values[:2] = 0
        data.write(values, path)
    text = found(data.config(), '% of the pixels are ignored', 'warning')
    assert text.startswith(f'{100 * (AREA - 480) / AREA:.1f} %')


@pytest.mark.parametrize(
    'lines, words',
    [
        ([f'{name}.jpg' for name in NAMES], "lists names with suffix, such as 'first"),
        ([*NAMES, ''], 'take the empty lines (1) out of'),
        ([*NAMES, 'fourth'], 'lists names without suffix'),
    ],
)
def test_lists_of_names(tmp_path, lines, words):
    data = FORMATS['maps'](tmp_path)
    (tmp_path / 'list.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    (finding,) = findings(data.config(ann_file='list.txt'))
    assert str(tmp_path / 'list.txt') in finding.what
    assert words in finding.fix


@pytest.mark.parametrize(
    'change_it, words',
    [
        (lambda name: f'{name}_labels', "seg_map_suffix='_labels.png'"),
        (lambda name: f'{name}0', 'name them as the pictures'),
        (lambda name: 'other' + name[0], 'name them as the pictures'),
    ],
)
def test_suffixes_of_label_maps(tmp_path, change_it, words):
    data = FORMATS['maps'](tmp_path)
    for path in list(data.path.parent.iterdir()):
        path.rename(path.with_name(f'{change_it(path.stem)}.png'))
    (finding,) = findings(data.config())
    assert words in finding.fix


def test_no_picture_of_the_suffix(tmp_path):
    data = FORMATS['maps'](tmp_path)
    for path in list(data.pictures.iterdir()):
        path.rename(path.with_suffix('.JPG'))
    (finding,) = findings(data.config())
    assert "no file that ends in '.jpg'; it has 3 *.JPG" in finding.what
    assert "img_suffix='.JPG'" in finding.fix
