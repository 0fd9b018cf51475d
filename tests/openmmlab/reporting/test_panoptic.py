"""Panoptic truth and predictions: qualities by hand, and the commands on tiny data."""

import json
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
from mmengine.config import Config
from openmmlab.engine import tiny
from openmmlab.reporting.panoptic_models import (
    HEIGHT,
    MODEL_TEXTS,
    STUFF,
    THING,
    WIDTH,
    write_model,
)

from mmssm.openmmlab import cli
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Segmentation, load
from mmssm.openmmlab.reporting.evaluating import evaluate
from mmssm.openmmlab.reporting.panoptic import PanopticTable, quality
from mmssm.openmmlab.reporting.segments import VOID, Segments, read_segments
from mmssm.openmmlab.reporting.truth import Truths

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Config and weights of a PanopticFPN."""
    return write_model(tmp_path_factory.mktemp('panoptic'), 'PanopticFPN')


@pytest.fixture(scope='module', params=MODEL_TEXTS)
def each(request, tmp_path_factory):
    """The same of either kind."""
    return write_model(tmp_path_factory.mktemp('panoptic'), request.param)


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


def test_commands(each, tmp_path, capsys):
    cli.analyse(['confusion', *each, '--out', str(tmp_path), '--device', 'cpu'])
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / 'confusion.json').read_text())
    assert content['counts of'] == 'pixels'
    assert [row['class'] for row in content['classes']] == [THING, *STUFF]
    assert [row['segments'] for row in content['classes']] == [2, 2, 2]
    assert np.sum(content['confusion (truth, prediction)']) == 2 * 38 * WIDTH
    assert 'PQ of things' in printed
    assert (tmp_path / 'confusion.png').stat().st_size > 1000
    flags = ['--by', 'metric', '--out', str(tmp_path), '--device', 'cpu']
    cli.analyse(['worst', *each, *flags])
    worst = json.loads((tmp_path / 'worst.json').read_text())
    assert worst['measure'] == 'PQ'
    assert len(worst['pictures']) == 2
    assert 'missed' in worst['pictures'][0]['about']


def test_pixels_without_a_segment_are_named(each, tmp_path):
    """They have the label after the last class, and leave the colours as they are."""
    palette = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    cfg = Config.fromfile(each[0])
    cfg.test_dataloader.dataset.metainfo.palette = palette
    cfg.model.test_cfg.object_mask_thr = 1.1  # Mask2Former finds nothing
    model = load(cfg, each[1], 'cpu')
    found = model(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert found.classes == (THING, *STUFF, 'no segment')
    assert found.colours == [*palette, (128, 128, 128)]
    if 'Mask2Former' in each[0]:
        assert found.shares() == {'no segment': 1.0}


@pytest.fixture
def panopticapi(monkeypatch):
    """What mmdet's step of the pipeline takes of the package of this name."""
    package, utils = ModuleType('panopticapi'), ModuleType('panopticapi.utils')
    utils.rgb2id = lambda c: c.astype(int) @ np.array([1, 256, 65536])
    package.utils = utils
    monkeypatch.setitem(sys.modules, 'panopticapi', package)
    monkeypatch.setitem(sys.modules, 'panopticapi.utils', utils)


def test_losses_and_what_the_pipeline_feeds(each, panopticapi, tmp_path):
    flags = ['--out', str(tmp_path)]
    cli.analyse(['worst', *each, *flags, '--device', 'cpu'])
    worst = json.loads((tmp_path / 'worst.json').read_text())
    losses = [picture['loss'] for picture in worst['pictures']]
    assert np.isfinite(losses).all()
    assert worst['by_loss'] == np.argsort(losses)[::-1].tolist()
    assert {path.name for path in tmp_path.glob('*.png')} == {
        'worst_by_loss.png',
        'worst_by_metric.png',
    }
    cli.analyse(['browse', *each[:1], *flags])
    fed = json.loads((tmp_path / 'browse.json').read_text())['pictures']
    assert [picture['name'] for picture in fed] == ['1.jpg', '2.jpg']


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
