"""What each flag does to a config, and what is refused."""

import pytest
from mmengine.config import Config

from mmssm.openmmlab.engine import UserError, configs


def detection(**parts):
    dataset = dict(type='CocoDataset', pipeline=[dict(type='Load'), dict(type='Pack')])
    stock = dict(
        default_scope='mmdet',
        model=dict(type='MaskRCNN'),
        test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dataset)),
        test_evaluator=dict(type='CocoMetric'),
    )
    return Config({**stock, **parts})


def segmentation(**parts):
    return detection(default_scope='mmseg', **parts)


def test_read_config(tmp_path):
    path = tmp_path / 'name.py'
    path.write_text('a = dict(b=1)\nlist = [dict(c=1)]')
    cfg = configs.read_config(str(path), {'a.b': 2, 'list.0.c': 3})
    assert (cfg.a.b, cfg.list[0].c, cfg.work_dir) == (2, 3, 'work_dirs/name')
    assert configs.read_config(str(path), work_dir='x').work_dir == 'x'
    path.write_text("work_dir = 'own'")
    assert configs.read_config(str(path)).work_dir == 'own'


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (None, 'cannot read the config .*name.py'),
        ('a = (', 'not valid Python'),
        ("_base_ = './absent.py'", 'cannot read .*absent.py'),
    ],
)
def test_unreadable_configs(tmp_path, text, words):
    path = tmp_path / 'name.py'
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        configs.read_config(str(path))


def test_misspelt_parts_of_options(tmp_path):
    path = tmp_path / 'name.py'
    path.write_text('model = dict(backbone=dict(depth=1)); list = [dict(c=1)]')
    with pytest.raises(UserError, match='no bakcbone. Did you mean backbone?'):
        configs.read_config(str(path), {'model.bakcbone.depth': 2})
    with pytest.raises(UserError, match='no modell. Did you mean model?'):
        configs.read_config(str(path), {'modell.backbone.depth': 2})
    new = {'model.neck.depth': 2, 'model.backbone.width': 3, 'list.0.c': 4}
    cfg = configs.read_config(str(path), new)
    assert (cfg.model.neck.depth, cfg.model.backbone.width, cfg.list[0].c) == (2, 3, 4)


def test_parts_of_a_loop_come_together():
    configs.require_together(detection(), 'val')
    whole = dict(val_dataloader={}, val_cfg={}, val_evaluator={})
    configs.require_together(detection(**whole), 'val')
    with pytest.raises(
        UserError, match='val_dataloader and val_evaluator without val_'
    ):
        configs.require_together(detection(**dict(whole, val_cfg=None)), 'val')


def test_option_that_does_not_fit(tmp_path):
    path = tmp_path / 'name.py'
    path.write_text('a = [dict(b=1)]')
    with pytest.raises(UserError, match=r'--cfg-options a\.7\.b does not fit'):
        configs.read_config(str(path), {'a.7.b': 2})


def test_require():
    configs.require(detection(), 'test_dataloader')
    with pytest.raises(UserError, match='lacks train_dataloader, train_cfg'):
        configs.require(detection(train_cfg=None), 'train_dataloader', 'train_cfg')


def test_lr_scaling():
    cfg = Config(dict(auto_scale_lr=dict(enable=False, base_batch_size=16)))
    configs.enable_lr_scaling(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(UserError, match='base_batch_size'):
        configs.enable_lr_scaling(Config(dict()))


def test_saving_predictions():
    cfg = detection()
    configs.enable_saving(cfg, 'out.pkl')
    dump = dict(type='mmdet.DumpDetResults', out_file_path='out.pkl')
    assert cfg.test_evaluator == [dict(type='CocoMetric'), dump]
    with pytest.raises(UserError, match=r'ending in \.pkl'):
        configs.enable_saving(detection(), 'folder')
    cfg = segmentation()
    configs.enable_saving(cfg, 'folder')
    assert cfg.test_evaluator.output_dir == 'folder'
    assert cfg.test_evaluator.keep_results
    with pytest.raises(UserError, match="needs one of 'mmdet', 'mmseg'"):
        configs.enable_saving(detection(default_scope='mmpose'), 'out.pkl')


def test_scope_of_the_model_goes_first():
    cfg = detection(default_scope='mmengine', model=dict(type='mmseg.EncoderDecoder'))
    assert configs.task_scope(cfg) == 'mmseg'


def test_drawing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hooks = dict(visualization=dict(type='Hook'))
    cfg = detection(default_hooks=hooks)
    configs.enable_drawing(cfg, 'shown', show=True, wait=3)
    folder = str(tmp_path / 'shown')
    always = dict(type='Hook', draw=True, interval=1)
    expected = dict(always, show=True, wait_time=3, test_out_dir=folder)
    assert cfg.default_hooks.visualization == expected
    cfg = segmentation(default_hooks=hooks, visualizer=dict())
    configs.enable_drawing(cfg, 'shown', show=False, wait=3)
    assert cfg.default_hooks.visualization == always
    assert cfg.visualizer.save_dir == 'shown'
    with pytest.raises(UserError, match='default_hooks.visualization'):
        configs.enable_drawing(detection(), 'shown', show=False, wait=0)


def test_augmentation_of_a_test():
    cfg = detection()
    configs.enable_tta(cfg)
    assert cfg.model.type == 'DetTTAModel'
    assert cfg.model.module.type == 'MaskRCNN'
    load, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert (load.type, augment.type) == ('Load', 'TestTimeAug')
    with pytest.raises(UserError, match='tta_model and tta_pipeline'):
        configs.enable_tta(segmentation())


def test_augmentation_refuses_masks():
    model = dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type='FCNMaskHead')))
    with pytest.raises(
        UserError, match=r'model\.roi_head\.mask_head gives masks.*=None'
    ):
        configs.enable_tta(detection(model=model))
    cfg = detection(model=model, tta_model=dict(type='MyTTA'), tta_pipeline=[])
    configs.enable_tta(cfg)
    assert cfg.model.type == 'MyTTA'
    model['roi_head']['mask_head'] = None
    configs.enable_tta(detection(model=model))
