"""Every path of a config that is missing is found, with the key it comes from."""

import pytest
from mmengine.config import Config

from mmssm.openmmlab.engine import UserError, missing_paths
from mmssm.openmmlab.engine.paths import check_paths, check_pretrained


def config(dataset, loader='train', **others):
    parts = {f'{loader}_dataloader': {'dataset': dataset}, f'{loader}_cfg': {}}
    return Config({**parts, **others})


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'boxes.json').write_text('{}')
    return str(tmp_path)


def test_complete_dataset_misses_nothing(root):
    prefix = dict(img='images/', img_path='images')
    dataset = dict(data_root=root, ann_file='boxes.json', data_prefix=prefix)
    absolute = dict(ann_file=f'{root}/boxes.json', data_prefix=dict(img=root))
    assert missing_paths(config(dataset)) == []
    assert missing_paths(config(absolute)) == []


def test_paths_are_joined_as_mmdet_and_mmseg_do(root):
    prefix = dict(img='nothing', seg='/nowhere')
    dataset = dict(data_root=root, ann_file='absent.json', data_prefix=prefix)
    assert missing_paths(config(dataset)) == [
        ('train_dataloader.dataset.ann_file', f'{root}/absent.json'),
        ('train_dataloader.dataset.data_prefix.img', f'{root}/nothing'),
        ('train_dataloader.dataset.data_prefix.seg', '/nowhere'),
    ]


def test_looks_into_wrapped_datasets(root):
    good = dict(data_root=root, ann_file='boxes.json')
    bad = dict(data_root=root, ann_file='absent.json')
    both = dict(type='ConcatDataset', datasets=[good, dict(dataset=bad)])
    dataset = dict(type='RepeatDataset', dataset=dict(dataset=both), times=2)
    key = 'train_dataloader.dataset.dataset.dataset.datasets[1].dataset.ann_file'
    assert missing_paths(config(dataset)) == [(key, f'{root}/absent.json')]


@pytest.mark.parametrize(('many', 'place'), [(False, ''), (True, '[0]')])
def test_annotation_files_of_evaluators(root, many, place):
    metric = dict(type='CocoMetric', ann_file='absent.json')
    cfg = config(
        dict(data_root=root), 'val', val_evaluator=[metric] if many else metric
    )
    assert missing_paths(cfg) == [(f'val_evaluator{place}.ann_file', 'absent.json')]


def test_only_the_loaders_that_run(root):
    bad = dict(data_root=root, ann_file='absent.json')
    assert missing_paths(config(bad, 'test'), ['train', 'val']) == []
    assert len(missing_paths(config(bad, 'test'), ['test'])) == 1
    unused = config(bad, 'val', val_cfg=None)
    assert missing_paths(unused) == []


def test_other_storage_is_not_checked():
    dataset = dict(data_root='s3://bucket/coco', ann_file='boxes.json')
    assert missing_paths(config(dataset)) == []


def test_error_lists_all(root):
    cfg = config(dict(data_root=root, ann_file='a.json', data_prefix=dict(img='b')))
    with pytest.raises(UserError, match=r'ann_file: .*a\.json\n.*prefix\.img: .*b\n'):
        check_paths(cfg, ['train'])


def test_pretrained_weights(tmp_path):
    (tmp_path / 'there.pth').touch()
    paths = [f'{tmp_path}/there.pth', 'https://host/a.pth', 'absent.pth']
    heads = [dict(init_cfg=dict(type='Pretrained', checkpoint=path)) for path in paths]
    check_pretrained(Config(dict(model=dict(heads=heads[:2]))))
    with pytest.raises(UserError, match=r'^model\.heads\[2\]\.init_cfg\.checkpoint: '):
        check_pretrained(Config(dict(model=dict(heads=heads))))
