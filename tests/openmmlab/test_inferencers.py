"""mmdet's and mmseg's inferencers take our models by name and by config."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.apis import MMSegInferencer

from mmssm.openmmlab import released
from mmssm.registry import MODELS
from mmssm.weights import RELEASED, save_file

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
STRIP = np.random.default_rng(0).integers(0, 256, (30, 300, 3), np.uint8)
NAME = 'spatialmamba-t_upernet_4xb4-160k_ade20k-512x512'

pytestmark = pytest.mark.filterwarnings('ignore')


def test_each_finds_its_own_models_by_name():
    stems = {
        host: {p.stem for p in CONFIGS.glob(f'[!d_]*/*_{data}*.py')}
        for host, data in (('mmdet', 'coco'), ('mmseg', 'ade20k'))
    }
    assert min(map(len, stems.values())) > 10
    for host, expected in stems.items():
        found = set(DetInferencer.list_models(host))
        assert found >= expected
        assert not found & set().union(
            *(stems[other] for other in stems.keys() - {host})
        )
        assert len(found) > len(expected) + 100  # its own are still there


def test_released_segmenter_by_name(tmp_path, monkeypatch):
    cfg = Config.fromfile(CONFIGS / f'spatial_mamba/{NAME}.py')
    torch.manual_seed(0)
    weights = _weights(cfg)
    classes = {'classes': ['a'] * 150, 'palette': [[1, 2, 3]] * 150}
    file = tmp_path / 'converted.pth'
    save_file({'meta': {'dataset_meta': classes}, 'state_dict': weights}, file)
    asked = []
    monkeypatch.setattr(released, 'converted', lambda n: asked.append(n) or file)
    inferencer = MMSegInferencer(NAME.upper(), device='cpu')
    assert asked == [NAME]
    assert inferencer.model.dataset_meta == classes
    loaded = inferencer.model.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert inferencer(STRIP)['predictions'].shape == STRIP.shape[:2]


@pytest.mark.parametrize(
    ('inferencer', 'config'),
    [
        (DetInferencer, 'mask-rcnn_vminet-demo_fpn_shapes'),
        (MMSegInferencer, 'vminet-demo_upernet_shapes'),
    ],
)
def test_by_config_and_checkpoint(inferencer, config, tmp_path):
    cfg = Config.fromfile(CONFIGS / f'demo/{config}.py')
    weights = _weights(cfg)
    save_file({'state_dict': weights}, tmp_path / 'weights.pth')
    model = inferencer(cfg.filename, str(tmp_path / 'weights.pth'), device='cpu')
    loaded = model.model.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert len(model([STRIP, STRIP[:, :97]])['predictions']) == 2


def test_every_released_address_is_read_by_us():
    for name, entry in RELEASED.items():
        loader = CheckpointLoader._get_checkpoint_loader(entry.url)
        assert (loader is released.load_from_mmssm) == (
            entry.task != 'classification'
        ), name


def _weights(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return revert_sync_batchnorm(MODELS.build(cfg.model)).state_dict()
