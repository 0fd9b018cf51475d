"""`mmssm-test CONFIG official` finds, downloads and converts what was released."""

import json

import golden
import pytest
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from mmssm.openmmlab import released
from mmssm.openmmlab.engine import UserError
from mmssm.weights import DownloadError, from_official, load_file, save_file

STEM = 'mask-rcnn_spatialmamba-t_fpn_1x_coco'


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / f'{STEM}.py').write_text('model = dict()')
    return Config.fromfile(tmp_path / f'{STEM}.py')


def test_it_is_found_by_the_name_of_the_config(cfg, monkeypatch, tmp_path):
    keys = json.loads((golden.DATA / 'spatial_mamba_tiny_keys.json').read_text())
    weights = {f'backbone.{n}': golden.weight(n, tuple(shape)) for n, shape in keys}
    weights['neck.w'] = torch.ones(1)
    save_file({'state_dict': weights}, tmp_path / 'a.pth')
    asked = []
    monkeypatch.setattr(
        released, 'fetch', lambda name: asked.append(name) or tmp_path / 'a.pth'
    )
    file = load_file(released.of_config(cfg))
    assert len(file['meta']['dataset_meta']['classes']) == 80
    found = file['state_dict']
    expected = from_official(weights, 'spatial_mamba')
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert asked == [STEM]
    address = released.RELEASED[STEM].url
    loaded = CheckpointLoader.load_checkpoint(address, 'cpu')['state_dict']
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_another_config_and_no_network_are_named(cfg, monkeypatch, tmp_path):
    def offline(name):
        raise DownloadError(f'{name}: no network')

    monkeypatch.setattr(released, 'fetch', offline)
    with pytest.raises(UserError, match=f'{STEM}: no network'):
        released.of_config(cfg)
    (tmp_path / 'own.py').write_text('model = dict()')
    with pytest.raises(UserError, match="no weights were released for 'own'"):
        released.of_config(Config.fromfile(tmp_path / 'own.py'))
