"""Panoptic truth and predictions: qualities by hand, and the commands on tiny data."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from openmmlab.engine import tiny
from PIL import Image

from mmssm.openmmlab import cli
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Segmentation
from mmssm.openmmlab.reporting.evaluating import evaluate
from mmssm.openmmlab.reporting.panoptic import PanopticTable, quality
from mmssm.openmmlab.reporting.segments import VOID, Segments, read_segments
from mmssm.openmmlab.reporting.truth import Truths
from mmssm.weights import save_file

pytestmark = pytest.mark.filterwarnings('ignore')
HEIGHT, WIDTH = 40, 64
THING, STUFF = 'box', ('ground', 'sky')

MODEL = """
default_scope = 'mmdet'
heads = dict(num_things_classes=1, num_stuff_classes=2)
nms = dict(type='nms', iou_threshold=0.5)
roi = dict(type='SingleRoIExtractor', out_channels=8, featmap_strides=[4, 8, 16, 32])
model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_mask=True,
        pad_seg=True, pad_size_divisor=32),
    backbone=dict(
        type='mmssm.VMINet',
        arch=dict(channels=4, depths=(1, 1, 1, 1), expand=2)),
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=8, feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0],
            strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0), **roi),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=16,
            roi_feat_size=7, num_classes=1,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
        mask_roi_extractor=dict(
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0), **roi),
        mask_head=dict(
            type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8,
            num_classes=1)),
    semantic_head=dict(
        type='PanopticFPNHead', in_channels=8, inner_channels=8, start_level=0,
        end_level=4, norm_cfg=dict(type='GN', num_groups=2), **heads),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', **heads),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=5, nms=nms, min_bbox_size=0),
        rcnn=dict(
            score_thr=0.05, max_per_img=5, mask_thr_binary=0.5,
            nms=dict(nms, class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=1)))
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations'),
]
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
scale = dict(type='Resize', scale=(64, 64), keep_ratio=True)
dataset = dict(
    type='CocoPanopticDataset', data_root='{root}', ann_file='panoptic.json',
    data_prefix=dict(img='images', seg='maps'), test_mode=True,
    metainfo=dict(
        classes=('box', 'ground', 'sky'), thing_classes=('box',),
        stuff_classes=('ground', 'sky')),
    pipeline=[load[0], scale, load[1], pack])
test_dataloader = dict(
    batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler'))
val_dataloader = train_dataloader = test_dataloader
"""


def write_data(root):
    """Two pictures: sky over ground, one box, and a crowd in the second one."""
    for folder in ('images', 'maps'):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in (1, 2):
        image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / f'images/{number}.jpg')
        ids = np.full((HEIGHT, WIDTH), 70000)
        ids[:20] = 3
        ids[25:35, 10:30] = 258
        ids[:2] = 0  # nothing
        segments = [entry(70000, 2), entry(3, 3), entry(258, 1)]
        if number == 2:
            ids[25:35, 40:60] = 9
            segments.append(entry(9, 1, iscrowd=1))
        channels = [ids % 256, ids // 256 % 256, ids // 65536]
        pixels = np.stack(channels, 2).astype(np.uint8)
        Image.fromarray(pixels).save(root / f'maps/{number}.png')
        name = f'{number}.jpg'
        images.append(dict(id=number, file_name=name, width=WIDTH, height=HEIGHT))
        annotations.append(
            dict(image_id=number, file_name=f'{number}.png', segments_info=segments)
        )
    names = ((1, THING, 1), (2, STUFF[0], 0), (3, STUFF[1], 0))
    categories = [dict(id=i, name=n, isthing=thing) for i, n, thing in names]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'panoptic.json').write_text(json.dumps(content))


def entry(number, category, **more):
    box = dict(bbox=[0, 0, 20, 10], area=200, iscrowd=0)
    return {'id': number, 'category_id': category, **box, **more}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Config and weights, as they are before training, of a PanopticFPN."""
    folder = tmp_path_factory.mktemp('panoptic')
    write_data(folder / 'data')
    config = folder / 'panoptic.py'
    config.write_text(MODEL.replace('{root}', f'{folder}/data'))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(config).model)
    weights = folder / 'panoptic.pth'
    save_file({'meta': {}, 'state_dict': model.state_dict()}, weights)
    return str(config), str(weights)


def test_the_truth_is_that_of_the_png(files):
    truths = Truths(Config.fromfile(files[0]))
    assert (truths.things, truths.measure, truths.of_pixels) == (1, 'PQ', True)
    first, second = truths[0], truths[1]
    assert first.classes == {70000: 1, 3: 2, 258: 0}
    assert (first.crowds, second.crowds) == (set(), {9})
    assert (first.labels[:2] == VOID).all()
    assert (first.labels[2:20] == 2).all()
    assert (first.labels[25:35, 10:30] == 0).all()
    assert (first.labels[36:] == 1).all()


def test_maps_that_are_not_there_are_named(files):
    info = dict(Truths(Config.fromfile(files[0])).pictures[0].info)
    with pytest.raises(UserError, match=r"data_prefix=dict\(img=…, seg='…'\)"):
        read_segments(dict(info, seg_map_path=None), 1)
    with pytest.raises(UserError, match=r'no\.png cannot be read'):
        read_segments(dict(info, seg_map_path='no.png'), 1)


# a row of ten pixels: things 5 and 6 of class 0, stuff 7 of class 1, nothing, a crowd
IDS = np.array([[5, 5, 5, 6, 6, 7, 7, 0, 8, 8]])
LABELS = np.array([[0, 0, 0, 0, 0, 1, 1, VOID, 0, 0]])
TRUTH = Segments(LABELS, IDS, {5: 0, 6: 0, 7: 1, 8: 0}, frozenset({8}))
RIGHT = [1000, 1000, 1000, 2000, 2000, 1, 1, 3000, 4000, 4000]


@pytest.mark.parametrize(
    ('found', 'pairs', 'overlap', 'invented', 'missed'),
    [
        # what lies on nothing and in the crowd is excused
        (RIGHT, [2, 1], [2, 1], [0, 0], [0, 0]),
        # one object for two, 3 of 5 pixels the first one's; of the five pixels of stuff
        # two are real ones, and the one on nothing does not count: exactly a half
        ([1000] * 5 + [1] * 5, [1, 0], [0.6, 0], [0, 1], [1, 1]),
        # what stuff covers of nothing does not lower its IoU
        ([1000] * 3 + [2000] * 2 + [1] * 3 + [2] * 2, [2, 1], [2, 1], [0, 0], [0, 0]),
        # other classes, and the last three pixels without one
        ([1] * 5 + [1000] * 2 + [2] * 3, [0, 0], [0, 0], [1, 1], [2, 1]),
        # stuff that spreads over the crowd of things is not excused
        ([1000] * 3 + [2000] * 2 + [2] * 3 + [1] * 2, [2, 0], [2, 0], [0, 1], [0, 1]),
    ],
)
def test_quality_by_hand(found, pairs, overlap, invented, missed):
    sums = quality(TRUTH, np.array([found]), 2)
    assert sums.pairs.tolist() == pairs
    assert sums.overlap == pytest.approx(overlap)
    assert sums.invented.tolist() == invented
    assert sums.missed.tolist() == missed


def of(*labels):
    image = np.zeros((1, len(labels), 3), np.uint8)
    segments = np.array([labels])
    return Segmentation(image, ('a', 'b'), [], segments % 1000, segments)


def test_a_table_of_two_pictures():
    table = PanopticTable(('a', 'b'), 1)
    table.add(TRUTH, of(*RIGHT))
    table.add(TRUTH, of(*[1000] * 5, *[1] * 5))
    overall, (thing, stuff) = table.result()
    # things: IoU 1, 1, 0.6 and one missed; stuff: IoU 1, one missed and one invented
    assert thing['PQ'] == pytest.approx(2.6 / 3.5)
    assert thing['SQ'] == pytest.approx(2.6 / 3)
    assert thing['RQ'] == pytest.approx(3 / 3.5)
    assert (thing['kind'], thing['segments']) == ('thing', 4)
    assert (stuff['PQ'], stuff['SQ'], stuff['RQ']) == (0.5, 1, 0.5)
    assert (stuff['kind'], stuff['segments']) == ('stuff', 2)
    assert overall['PQ'] == pytest.approx((2.6 / 3.5 + 0.5) / 2)
    assert (overall['PQ of things'], overall['PQ of stuff']) == (thing['PQ'], 0.5)
    # pixels without a class are left out; the crowd of the second picture is stuff
    assert table.counts.tolist() == [[12, 2, 0], [0, 4, 0], [0, 0, 0]]


def test_nothing_found_at_all():
    table = PanopticTable(('a', 'b'), 1)
    table.add(TRUTH, of(*[2] * 10))
    overall, rows = table.result()
    assert [row['PQ'] for row in rows] == [0, 0]
    assert [row['SQ'] for row in rows] == [None, None]
    assert table.counts[:, 2].tolist() == [7, 2, 0]
    assert PanopticTable(('a', 'b'), 1).result()[0]['PQ'] is None


class Perfect:
    """Finds what the truth says."""

    scope, classes = 'mmdet', ()

    def __init__(self, truths):
        self.truths = truths

    def __call__(self, paths, **_):
        index = [picture.path for picture in self.truths.pictures].index(paths[0])
        truth = self.truths[index]
        labels = np.where(truth.labels == VOID, 3, truth.labels)
        # every thing its own number; stuff has none
        segments = labels + 1000 * truth.ids * (labels == 0)
        return [of(0)._replace(labels=labels, segments=segments)]


def test_the_truth_itself_has_quality_one(files):
    truths = Truths(Config.fromfile(files[0]))
    result = evaluate(Perfect(truths), truths)
    assert result.overall['PQ'] == 1
    assert [outcome.score for outcome in result.outcomes] == [1, 1]
    assert result.labels == ('box', 'ground', 'sky', 'no segment')
    assert np.trace(result.confusion) == result.confusion.sum()


def test_commands(files, tmp_path, capsys):
    cli.analyse(['confusion', *files, '--out', str(tmp_path), '--device', 'cpu'])
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / 'confusion.json').read_text())
    assert content['counts of'] == 'pixels'
    assert [row['class'] for row in content['classes']] == [THING, *STUFF]
    assert [row['segments'] for row in content['classes']] == [2, 2, 2]
    assert np.sum(content['confusion (truth, prediction)']) == 2 * 38 * WIDTH
    assert 'PQ of things' in printed
    assert (tmp_path / 'confusion.png').stat().st_size > 1000
    flags = ['--by', 'metric', '--out', str(tmp_path), '--device', 'cpu']
    cli.analyse(['worst', *files, *flags])
    worst = json.loads((tmp_path / 'worst.json').read_text())
    assert worst['measure'] == 'PQ'
    assert len(worst['pictures']) == 2
    assert 'missed' in worst['pictures'][0]['about']


@pytest.mark.skipif(
    find_spec('panopticapi') is not None, reason='panopticapi is installed'
)
@pytest.mark.parametrize('what', ['worst', 'browse'])
def test_a_package_that_is_missing_is_named(files, what, tmp_path):
    given = files if what == 'worst' else files[:1]
    with pytest.raises(SystemExit, match=r'panopticapi is not installed.*pip install'):
        cli.analyse([what, *given, '--out', str(tmp_path)])


def test_models_and_data_of_two_kinds_are_refused(files):
    truths = Truths(Config.fromfile(files[0]))

    class Boxes(Perfect):
        def __call__(self, paths, **_):
            return [of(0)._replace(segments=None)]

    with pytest.raises(UserError, match=r'data is panoptic, and the model gives no'):
        evaluate(Boxes(truths), truths)
    cfg = Config.fromfile(files[0])
    cfg.test_dataloader.dataset.metainfo.thing_classes = ('sky',)
    with pytest.raises(UserError, match=r'do not begin with its thing_classes'):
        Truths(cfg)


def test_panoptic_maps_are_no_boxes(files, tmp_path):
    tiny.write_data(tmp_path / 'data')
    truths = Truths(Config.fromfile(tiny.write_config(tmp_path, 'detection')))
    with pytest.raises(UserError, match=r'the class of every pixel, the data has obj'):
        evaluate(FoundPixels(), truths)


class FoundPixels:
    scope, classes = 'mmdet', ()

    def __call__(self, paths, **_):
        return [of(0)]
