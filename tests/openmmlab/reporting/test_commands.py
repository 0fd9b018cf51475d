"""`mmssm-analyse` and `mmssm-report` on trainings of a tiny detector and segmenter."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from openmmlab.engine import tiny
from PIL import Image

import mmssm
from mmssm.openmmlab import cli
from mmssm.openmmlab.engine.configs import read_config
from mmssm.openmmlab.reporting import run_files
from mmssm.openmmlab.reporting.losses import Losses
from mmssm.openmmlab.reporting.truth import Truths

pytestmark = pytest.mark.filterwarnings('ignore')
TASKS = ('detection', 'segmentation')
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
REAL = {'boxes AP', 'boxes AP50', 'boxes AR'}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Folder with data, configs, and a work_dir TASK of each."""
    folder = tmp_path_factory.mktemp('tiny')
    tiny.write_data(folder / 'data')
    for task in TASKS:
        config = tiny.write_config(folder, task)
        cli.train(
            [
                str(config),
                *('--work-dir', str(folder / task)),
                *('--cfg-options', f'experiment_name=reported_{task}'),
            ]
        )
    return folder


@pytest.fixture(scope='module')
def analysed(trained):
    """Run a command of `mmssm-analyse` on a task; its JSON, and its folder."""

    def run(what, task, *flags):
        out = trained / f'{what}_{task}'
        checkpoint = str(run_files.find_checkpoint(trained / task))
        given = [] if what == 'browse' else [checkpoint]
        config = str(trained / f'{task}.py')
        cli.analyse([what, config, *given, '--out', str(out), *flags])
        return json.loads((out / f'{what}.json').read_text()), out

    return run


def test_confusion_of_objects(analysed, capsys):
    content, out = analysed('confusion', 'detection', '--score', '0')
    assert content['labels'] == ['ground', 'box', 'background']
    counts = np.array(content['confusion (truth, prediction)'])
    assert counts[:2].sum(1).tolist() == [0, tiny.COUNT]  # each real object once
    assert counts[2, 2] == 0
    assert counts.sum() > tiny.COUNT  # what was found where nothing is
    assert set(content['overall']) >= REAL
    assert [row['objects'] for row in content['classes']] == [0, tiny.COUNT]
    assert Image.open(out / 'confusion.png').size[0] > 300
    assert 'boxes AP50' in capsys.readouterr().out


def test_confusion_of_pixels(analysed):
    content, _ = analysed('confusion', 'segmentation', '--batch', '3')
    assert content['labels'] == ['ground', 'box']
    counts = np.array(content['confusion (truth, prediction)'])
    assert counts.sum(1).tolist() == [tiny.COUNT * (64 * 64 - 576), tiny.COUNT * 576]
    right = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert content['overall']['mIoU'] == pytest.approx(right.mean(), rel=1e-5)
    some, _ = analysed('confusion', 'segmentation', '--most', '2')
    assert np.sum(some['confusion (truth, prediction)']) == 2 * 64 * 64


@pytest.mark.parametrize('task', TASKS)
def test_worst(analysed, task):
    content, out = analysed('worst', task, '--count', '3')
    pictures = content['pictures']
    assert len(pictures) == tiny.COUNT
    losses = [pictures[i]['loss'] for i in content['by_loss']]
    assert losses == sorted((p['loss'] for p in pictures), reverse=True)[:3]
    scores = [pictures[i]['score'] for i in content['by_metric']]
    assert scores == sorted(p['score'] for p in pictures)[:3]
    for kind in ('metric', 'loss'):
        assert Image.open(out / f'worst_by_{kind}.png').size[0] == 1600
    plain, _ = analysed('worst', task, '--by', 'metric')
    assert {p['loss'] for p in plain['pictures']} == {None}


@pytest.mark.parametrize('task', TASKS)
def test_losses_are_those_of_the_training(trained, task):
    cfg = read_config(str(trained / f'{task}.py'))
    checkpoint = run_files.find_checkpoint(trained / task)
    model = mmssm.load(cfg, checkpoint, 'cpu')
    found = Losses(model, cfg, truths := Truths(cfg))(2)
    assert found == Losses(model, cfg, truths)(2)
    steps = [s for s in cfg.train_dataloader.dataset.pipeline if s.type != 'RandomFlip']
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.no_grad():
        packed = Compose(steps)(dict(truths.pictures[2].info))
        data = model.model.data_preprocessor(pseudo_collate([packed]), True)
        expected, _ = model.model.parse_losses(model.model(**data, mode='loss'))
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_browse(analysed):
    content, out = analysed('browse', 'detection', '--count', '3')
    assert [p['index'] for p in content['pictures']] == [0, 2, 3]
    assert Image.open(out / 'browse.png').size[0] == 1600


def test_data_without_annotations(trained):
    config, checkpoint = 'segmentation.py', 'segmentation/iter_4.pth'
    with pytest.raises(SystemExit) as stopped:
        cli.analyse(
            [
                'confusion',
                *(str(trained / name) for name in (config, checkpoint)),
                *('--out', str(trained / 'none')),
                *('--cfg-options', 'test_dataloader.dataset.data_prefix.seg_map_path='),
            ]
        )
    assert 'nothing to compare' in str(stopped.value)


def test_a_checkpoint_of_other_classes(trained):
    with pytest.raises(SystemExit) as stopped:
        cli.analyse(
            [
                'confusion',
                str(trained / 'segmentation.py'),
                str(trained / 'segmentation/iter_4.pth'),
                *('--out', str(trained / 'none'), '--cfg-options'),
                'test_dataloader.dataset.metainfo.classes=("a","b","c")',
                'test_dataloader.dataset.metainfo.palette=[[0,0,0],[1,1,1],[2,2,2]]',
            ]
        )
    assert 'knows 2 classes (ground, box)' in str(stopped.value)


class Page(HTMLParser):
    """What a page would fetch, and the text of its parts."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        names = ('src', 'srcset', 'data', 'poster', 'action', 'background')
        self.sources += [given[n] for n in names if n in given]
        if tag in ('link', 'a', 'use', 'image'):
            self.sources += [v for k, v in attrs if k.endswith('href')]
        self.ids += [given[n] for n in ('id',) if n in given]
        assert tag not in ('script', 'iframe', 'object', 'embed', 'base')
        if tag not in ('img', 'meta', 'link', 'br', 'source'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope='module')
def reports(trained):
    """The text of the page of each task."""
    for task in TASKS:
        cli.report([str(trained / task), '--count', '2', '--batch', '2'])
    return {task: (trained / task / 'report.html').read_text() for task in TASKS}


@pytest.mark.parametrize('task', TASKS)
def test_a_page_needs_nothing_else(reports, task):
    page = Page(reports[task])
    assert page.open == []
    pictures = [s for s in page.sources if not s.startswith('#')]
    assert pictures.pop(0) == 'data:,'
    # two figures of the light look and the dark; two samples, twice two of the worst;
    # the receptive field
    assert len(pictures) == 2 * 2 + 2 + 2 * 2 + 1
    for source in pictures:
        kind, _, content = source.partition(';base64,')
        image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        image.load()
        assert f'data:image/{image.format.lower()}' == kind
        assert min(image.size) > 100
    links = [s[1:] for s in page.sources if s.startswith('#')]
    assert links == page.ids
    assert set(links) >= {'metrics', 'curves', 'confusion', 'worst', 'data', 'config'}
    assert not re.findall(r'url\(|@import', reports[task])
    assert 'prefers-color-scheme: dark' in reports[task]


@pytest.mark.parametrize('task', TASKS)
def test_a_page_says_what_was_done(reports, trained, task):
    text = reports[task]
    assert f'mmssm-train {trained}/{task}.py' in text
    assert f'mmssm-report {trained}/{task}' in text
    assert 'On all 4 pictures' in text
    assert 'SpatialMamba' in text
    assert 'class="note"' not in text
    assert f'<td>{torch.__version__}</td>' in text


def test_what_is_missing_is_said(trained, tmp_path, capsys):
    shutil.copytree(trained / 'segmentation', tmp_path / 'run')
    (tmp_path / 'run/iter_2.pth').unlink()
    (tmp_path / 'run/iter_4.pth').write_bytes(b'cut')
    shutil.rmtree(next((tmp_path / 'run').glob('*/vis_data')))
    cli.report([str(tmp_path / 'run')])
    said = capsys.readouterr().out
    assert 'not on the page: curves:' in said
    assert 'not on the page: predictions:' in said
    text = (tmp_path / 'run/report.html').read_text()
    assert text.count('class="note"') == 2
    assert 'data' in Page(text).ids
    (tmp_path / 'run/iter_4.pth').unlink()
    (tmp_path / 'run/last_checkpoint').unlink()
    assert run_files.find_checkpoint(tmp_path / 'run') is None
    with pytest.raises(SystemExit, match='holds no config'):
        cli.report([str(tmp_path)])


def test_which_checkpoint(tmp_path):
    for name in ('epoch_1.pth', 'epoch_2.pth', 'best_coco_bbox_mAP_epoch_1.pth'):
        (tmp_path / name).touch()
    assert run_files.find_checkpoint(tmp_path).name.startswith('best_')
    (tmp_path / 'best_coco_bbox_mAP_epoch_1.pth').unlink()
    (tmp_path / 'last_checkpoint').write_text('/moved/away/epoch_1.pth')
    assert run_files.find_checkpoint(tmp_path).name == 'epoch_1.pth'


def test_names_are_not_markup(trained, tmp_path, reports):
    folder = tmp_path / 'run <b>&'
    shutil.copytree(trained / 'segmentation', folder)
    cli.report([str(folder), '--most', '1', '--count', '1'])
    text = (folder / 'report.html').read_text()
    assert 'run &lt;b&gt;&amp;' in text
    assert '<b>&' not in text


@pytest.mark.parametrize('task', TASKS)
def test_a_browser_shows_the_page(reports, tmp_path, task):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f'none of {", ".join(BROWSERS)} is installed')
    check = (
        '<script>addEventListener("load", () => { const all = [...document.images];'
        'for (const one of all) one.loading = "eager";'
        'Promise.all(all.map(one => one.decode().then(() => 1, () => 0))).then(found =>'
        '{ document.title = JSON.stringify({shown: found.reduce((a, b) => a + b),'
        'all: all.length, fetched: performance.getEntriesByType("resource")'
        '.map(entry => entry.name).filter(name => !name.startsWith("data:"))}); }); });'
        '</script></body>'
    )
    path = tmp_path / 'page.html'
    path.write_text(reports[task].replace('</body>', check))
    flags = [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--virtual-time-budget=9999',
    ]
    done = subprocess.run(
        [
            browser,
            *flags,
            f'--user-data-dir={tmp_path}/profile',
            '--dump-dom',
            str(path),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    title = re.search('<title>(.*?)</title>', done.stdout)
    assert title, done.stderr[-2000:]
    assert json.loads(title[1]) == {'shown': 9, 'all': 9, 'fetched': []}
