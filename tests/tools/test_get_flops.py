"""The tool counts detectors and segmenters, with every proposal."""

from pathlib import Path

import pytest
from mmengine.config import Config

from tools.analysis import get_flops as tool

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    'name',
    ['mask-rcnn_spatialmamba-demo_fpn_shapes', 'spatialmamba-demo_upernet_shapes'],
)
def test_a_config_has_sizes(capsys, name):
    tool.main([str(ROOT / f'configs/demo/{name}.py'), '--shape', '64', '96'])
    title, model, *_ = capsys.readouterr().out.splitlines()
    assert title == 'one image of 64 x 96'
    assert model.split()[0::2] == ['model', 'M', 'G']


def test_heads_are_counted_for_all_proposals():
    path = ROOT / 'configs/demo/mask-rcnn_spatialmamba-demo_fpn_shapes.py'
    few, more = (Config.fromfile(path) for _ in range(2))
    few.model.test_cfg.rpn.max_per_img = 10
    more.model.test_cfg.rpn.max_per_img = 20
    few, more = (tool.sizes(cfg, (64, 64)).model.total for cfg in (few, more))
    fully_connected = 256 * 7 * 7 * 256
    assert more - few > 10 * fully_connected
