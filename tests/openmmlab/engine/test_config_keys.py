"""Keys that nothing reads are found before anything is built, and no others."""

import copy
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config
from openmmlab.engine import tiny

from mmssm.openmmlab.engine import UserError
from mmssm.openmmlab.engine.config_keys import check_config

ROOT = Path(__file__).resolve().parents[3]
# built wrongly as they are published, or by a package that is not installed
BROKEN = (
    *('cascade_rpn', 'cascade-rpn', 'v3det/fcos', '0712-cocofmt', 'pdf/'),
    *('projects/', 'reid/', 'deepsort'),
)


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    return {
        task: Config.fromfile(tiny.write_config(folder, task))
        for task in ('detection', 'segmentation')
    }


def changed(configs, task, changes):
    cfg = copy.deepcopy(configs[task])
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('[!_]*/[!_]*.py')))
def test_our_own_configs_pass(path):
    cfg = Config.fromfile(path)
    if cfg.default_scope == 'mmpretrain':  # its classes are what is looked for
        pytest.importorskip('mmpretrain')
    check_config(cfg)


@pytest.mark.parametrize('package', [mmdet, mmseg], ids=lambda p: p.__name__)
def test_stock_configs_pass(package):
    folder = Path(package.__path__[0], '.mim/configs')
    paths = sorted(p for p in folder.rglob('*.py') if '_base_' not in p.parts)
    checked = 0
    for path in paths[::40]:
        if any(part in str(path) for part in BROKEN):
            continue
        try:
            cfg = Config.fromfile(path)
        except (ImportError, FileNotFoundError, KeyError):
            continue  # of packages that are not installed
        check_config(cfg)
        checked += 1
    assert checked > 10


@pytest.mark.parametrize(
    ('task', 'changes', 'words'),
    [
        ('detection', {'model.bakcbone': {'type': 'x'}}, 'bakcbone.* mean backbone'),
        ('detection', {'model.neck.out_chanels': 3}, 'FPN has .* mean out_channels'),
        ('detection', {'model.test_cfg.scor_thr': 0.1}, 'test_cfg.scor_thr: no code'),
        ('detection', {'model.backbone.drop_path': 0.1}, 'mean drop_path_rate'),
        ('detection', {'train_dataloader.bacth_size': 2}, 'mean batch_size'),
        ('detection', {'train_dataloader.batch_size': 'two'}, "batch_size is 'two'; "),
        ('detection', {'train_dataloader.num_workers': -1}, 'num_workers is -1; '),
        ('detection', {'train_dataloader.dataset.ann_fiel': 'x'}, 'mean ann_file'),
        (
            'detection',
            {'train_dataloader.dataset.data_root': 3},
            'data_root is 3; .*te',
        ),
        (
            'detection',
            {'train_dataloader.sampler': 'x'},
            "sampler is 'x'; expected a d",
        ),
        ('detection', {'val_evaluator.metrics': 'bbox'}, 'CocoMetric .*mean metric'),
        ('detection', {'visualizer.vis_backend': []}, 'mean vis_backends'),
        ('detection', {'visualizer': 'x'}, "visualizer is 'x'; expected a dict"),
        ('detection', {'default_hooks.checkpoint.intervall': 1}, 'mean interval'),
        (
            'detection',
            {'default_hooks.checkpont': {'a': 1}},
            'checkpont: .*mean checkpoint',
        ),
        ('detection', {'optim_wrapper.optimizer.lrr': 1}, 'AdamW has .* mean lr'),
        ('detection', {'optim_wrapper.clip_gard': {}}, 'mean clip_grad'),
        ('detection', {'param_scheduler': [{'tpye': 'x'}]}, r'scheduler\[0\].*type'),
        ('detection', {'optim_wraper': {'a': 1}}, 'optim_wraper: .*mean optim_wrapper'),
        ('detection', {'auto_scale_lr.enabel': True}, 'mean enable'),
        ('detection', {'randomness.sed': 1}, 'randomness.sed: .*mean seed'),
        (
            'detection',
            {'model.test_cfg.nms': ['a']},
            r"test_cfg.nms is \['a'\]; .*dict",
        ),
        ('detection', {'train_cfg.max_epoch': 3}, 'mean max_epochs'),
        ('detection', {'strategy': 'x'}, "strategy is 'x'; expected a dict"),
        ('segmentation', {'model.decode_head.num_clases': 2}, 'mean num_classes'),
        (
            'segmentation',
            {'model.decode_head.loss_decode.use_sigmod': 1},
            'use_sigmoid',
        ),
        (
            'segmentation',
            {'train_dataloader.dataset.data_prefix.img_apth': 'x'},
            'img_p',
        ),
        ('segmentation', {'val_evaluator.iou_metric': []}, 'mean iou_metrics'),
        ('segmentation', {'train_dataloader.dataset.img_sufix': ''}, 'mean img_suffix'),
    ],
)
def test_a_wrong_key_is_named_with_its_path(configs, task, changes, words):
    with pytest.raises(UserError, match=words) as error:
        check_config(changed(configs, task, changes))
    path = next(iter(changes)).partition('.')[0]
    assert str(error.value).startswith(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('part', 'key'),
    [
        ('model', 'data_preprocessor'),
        ('train_dataloader', 'dataset'),
        ('model', 'type'),
    ],
)
def test_what_is_left_out_is_named(configs, part, key):
    cfg = copy.deepcopy(configs['detection'])
    del cfg[part][key]
    with pytest.raises(UserError, match=f'{part} has no {key}'):
        check_config(cfg)
    cfg = copy.deepcopy(configs['detection'])
    del cfg.val_dataloader.dataset.pipeline
    with pytest.raises(UserError, match='val_dataloader.dataset has no pipeline'):
        check_config(cfg)


def test_epochs_need_a_loop_of_epochs(configs):
    cfg = copy.deepcopy(configs['detection'])
    cfg.train_cfg = dict(max_epochs=3)
    with pytest.raises(UserError, match="max_epochs=3 .*type='EpochBasedTrainLoop'"):
        check_config(cfg)
    cfg.train_cfg = dict(max_epochs=3, by_epoch=True)
    check_config(cfg)


def test_names_of_ones_own_are_fine(configs):
    own = dict(small_train_pipeline=[], data_root='x', classes=('a',), lr=1e-3)
    check_config(changed(configs, 'segmentation', own))


def test_hosts_and_wrapped_models_are_looked_into(configs):
    host = dict(type='mmdet.ResNet', depth=18, dpeth=1)
    backbone = dict(type='mmssm.SSM2DHost', host=host, _delete_=True)
    cfg = changed(configs, 'detection', {'model.backbone': backbone})
    with pytest.raises(UserError, match='model.backbone.host.dpeth: .* mean depth'):
        check_config(cfg)
    host.pop('dpeth')
    cfg.model.backbone = dict(type='mmssm.SSM2DHost', host=host, directoins=2)
    with pytest.raises(UserError, match='backbone.directoins: .* mean directions'):
        check_config(cfg)


def test_a_class_of_ones_own_may_read_any_key(configs):
    class Reader:
        def __init__(self, **options):
            self.options = options

    cfg = copy.deepcopy(configs['detection'])
    cfg.model.neck = dict(type=Reader, whatever=1)
    check_config(cfg)
