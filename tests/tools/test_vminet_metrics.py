"""The comparison of choices on a test set changes what it says, and no more."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tools.analysis import vminet_metrics

CONFIGS = Path(__file__).parents[2] / 'configs/demo'


def test_a_resize_is_scaled():
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='PackDetInputs'),
    ]
    assert vminet_metrics.scaled(steps, 1.5)[1]['scale'] == (2000, 1200)
    assert steps[1]['scale'] == (1333, 800)
    steps[1] = dict(type='mmdet.Resize', scale_factor=0.5)
    assert vminet_metrics.scaled(steps, 3)[1]['scale_factor'] == 1.5


def test_without_a_resize_one_follows_the_loading():
    steps = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    loaded, resize, packed = vminet_metrics.scaled(steps, 2)
    assert resize == dict(type='Resize', scale_factor=2, keep_ratio=True)
    assert [loaded, packed] == steps


def test_context_is_removed_from_a_copy():
    mix = torch.tensor([0.5, 2.0])
    weights = {'backbone.stages.0.blocks.0.attention.mix': mix, 'head.mix': mix}
    changed = vminet_metrics.without_context({'state_dict': weights, 'meta': 1})
    assert changed['meta'] == 1
    first, second = changed['state_dict'].values()
    assert first.tolist() == [0, 2]
    assert second.tolist() == mix.tolist() == [0.5, 2]


def test_table_has_each_choice_and_scale(monkeypatch, capsys):
    seen = []

    def evaluate(cfg, checkpoint):
        pipeline = cfg.test_dataloader.dataset.pipeline
        seen.append((cfg.model.backbone.resample, pipeline[1]['scale_factor']))
        return {'mIoU': len(seen) / 10}

    config = str(CONFIGS / 'vminet-demo_upernet_shapes.py')
    monkeypatch.setattr(vminet_metrics.running, 'evaluate', evaluate)
    options = ['--choices', 'window', 'mean', '--scales', '1', '2']
    vminet_metrics.main([config, 'checkpoint.pth', *options])
    assert seen == [('window', 1), ('window', 2), ('mean', 1), ('mean', 2)]
    printed = capsys.readouterr().out
    assert '| window | 0.100 | 0.200 |\n| mean | 0.300 | 0.400 |' in printed


def test_another_backbone_is_refused():
    config = str(CONFIGS / 'spatialmamba-demo_upernet_shapes.py')
    with pytest.raises(SystemExit, match="'mmssm.SpatialMamba'; expected"):
        vminet_metrics.main([config, 'checkpoint.pth'])
    assert Config.fromfile(config).model.backbone.type == 'mmssm.SpatialMamba'
