"""Heads and data with different numbers of classes are refused before anything runs."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmssm.openmmlab.engine import UserError
from mmssm.openmmlab.engine.classes import check_classes

CONFIGS = Path(__file__).parents[3] / 'configs'


def config(classes, head=2, loader='train', **dataset):
    model = dict(
        rpn_head=dict(num_classes=1),
        roi_head=dict(
            bbox_head=dict(num_classes=head), semantic_head=dict(num_classes=9)
        ),
    )
    dataset = dict(type='Unknown', metainfo=dict(classes=classes), **dataset)
    parts = {f'{loader}_dataloader': dict(dataset=dataset), f'{loader}_cfg': {}}
    return Config(dict(model=model, **parts))


def test_equal_numbers_pass():
    check_classes(config(('cat', 'dog')), ['train', 'val'])
    check_classes(config(('cat',), loader='test'), ['train', 'val'])


def test_head_and_data_are_named():
    words = (
        r'model\.roi_head\.bbox_head\.num_classes is 2, but '
        r'train_dataloader\.dataset has 1 classes \(cat\)'
    )
    with pytest.raises(UserError, match=words):
        check_classes(config(('cat',)), ['train'])


def test_every_head_of_a_cascade_and_wrapped_data():
    cfg = config(('cat', 'dog'))
    cfg.model.roi_head.bbox_head = [dict(num_classes=2), dict(num_classes=3)]
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=inner)]
    )
    words = r'bbox_head\[1\]\.num_classes is 3.*dataset\.datasets\[0\]\.dataset has 2'
    with pytest.raises(UserError, match=words):
        check_classes(cfg, ['train'])


def test_a_text_is_no_tuple(tmp_path):
    with pytest.raises(UserError, match=r"the text 'box'.*\('box',\)"):
        check_classes(config('box'), ['train'])
    (tmp_path / 'names.txt').write_text('cat\ndog\n')
    check_classes(config(str(tmp_path / 'names.txt')), ['train'])


def test_classes_of_the_data_set_itself():
    cfg = config(None)
    cfg.default_scope = 'mmdet'
    cfg.train_dataloader.dataset = dict(type='CocoDataset')
    with pytest.raises(UserError, match=r'has 80 classes \(person, bicycle, car, …\)'):
        check_classes(cfg, ['train'])


def panoptic(**head):
    head = dict(num_things_classes=80, num_stuff_classes=53) | head
    cfg = config(None, head=80)
    cfg.default_scope = 'mmdet'
    cfg.train_dataloader.dataset = dict(type='CocoPanopticDataset')
    cfg.model.panoptic_head = head
    return cfg


def test_things_and_stuff():
    check_classes(panoptic(), ['train'])
    for name, words in (('things', '80 things'), ('stuff', '53 stuff')):
        key = f'num_{name}_classes'
        with pytest.raises(UserError, match=rf'panoptic_head\.{key} is 7, .*{words}'):
            check_classes(panoptic(**{key: 7}), ['train'])
    cfg = panoptic()
    cfg.model.roi_head.bbox_head.num_classes = 133
    with pytest.raises(UserError, match=r'bbox_head\.num_classes is 133.* 80 things'):
        check_classes(cfg, ['train'])


def test_classes_of_ones_own_in_a_panoptic_set_cannot_be_divided():
    cfg = panoptic()
    cfg.train_dataloader.dataset.metainfo = dict(classes=('cat', 'grass'))
    check_classes(cfg, ['train'])
    own = dict(thing_classes=('cat',), stuff_classes=('grass',))
    cfg.train_dataloader.dataset.metainfo.update(own)
    with pytest.raises(UserError, match=r'num_classes is 80.* 1 things'):
        check_classes(cfg, ['train'])


def test_heads_that_count_things_alone_take_all_classes():
    cfg = config(('cat', 'dog'))
    cfg.model.panoptic_head = dict(num_things_classes=80, num_stuff_classes=0)
    with pytest.raises(UserError, match='num_things_classes is 80, .* has 2 classes'):
        check_classes(cfg, ['train'])


@pytest.mark.parametrize('part', ['language_model', 'text_encoder', 'detector'])
def test_models_whose_heads_count_something_else(part):
    cfg = config(('cat', 'dog', 'bird'))
    check = pytest.raises(UserError, check_classes, cfg, ['train'])
    assert 'bbox_head.num_classes is 2' in str(check.value)
    cfg.model = (
        dict(detector=cfg.model) if part == 'detector' else {part: {}, **cfg.model}
    )
    check_classes(cfg, ['train'])


def test_auxiliary_heads_count_unless_they_have_another_task():
    cfg = config(('cat', 'dog'))
    edges = dict(type='STDCHead', num_classes=9)
    cfg.model.auxiliary_head = [edges, dict(type='FCNHead', num_classes=2)]
    check_classes(cfg, ['train'])
    cfg.model.auxiliary_head[1].num_classes = 9
    with pytest.raises(UserError, match=r'auxiliary_head\[1\]\.num_classes is 9'):
        check_classes(cfg, ['train'])


def test_the_configs_of_the_project_agree_with_their_data():
    paths = [p for p in sorted(CONFIGS.rglob('*.py')) if '_base_' not in p.parts]
    assert len(paths) > 10
    for path in paths:
        check_classes(Config.fromfile(path), ['train', 'val', 'test'])
