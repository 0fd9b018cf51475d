"""The tool counts detectors and segmenters, with every proposal."""

import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location(
        'get_flops', ROOT / 'tools/analysis/get_flops.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    'name',
    ['mask-rcnn_spatialmamba-demo_fpn_shapes', 'spatialmamba-demo_upernet_shapes'],
)
def test_a_config_has_sizes(tool, capsys, name):
    tool.main([str(ROOT / f'configs/demo/{name}.py'), '--shape', '64', '96'])
    title, model, *_ = capsys.readouterr().out.splitlines()
    assert title == 'one image of 64 x 96'
    assert model.split()[0::2] == ['model', 'M', 'G']


def test_heads_are_counted_for_all_proposals(tool):
    path = ROOT / 'configs/demo/mask-rcnn_spatialmamba-demo_fpn_shapes.py'
    few, more = (Config.fromfile(path) for _ in range(2))
    few.model.test_cfg.rpn.max_per_img = 10
    more.model.test_cfg.rpn.max_per_img = 20
    few, more = (tool.sizes(cfg, (64, 64)).model.total for cfg in (few, more))
    fully_connected = 256 * 7 * 7 * 256
    assert more - few > 10 * fully_connected
