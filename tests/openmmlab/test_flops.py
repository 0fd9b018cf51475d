"""The command counts detectors and segmenters, with every proposal."""

from pathlib import Path

import pytest
from mmengine.config import Config

import mmssm
from mmssm.openmmlab.commands import flops as tool
from mmssm.openmmlab.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    'name',
    ['mask-rcnn_spatialmamba-demo_fpn_shapes', 'spatialmamba-demo_upernet_shapes'],
)
def test_a_config_has_sizes(capsys, name):
    tool.main([str(ROOT / f'configs/demo/{name}.py'), '--shape', '64', '96'])
    lines = capsys.readouterr().out.splitlines()
    # mmdet may speak first, when it is imported
    _, model, *_ = lines[lines.index('one image of 64 x 96') :]
    assert model.split()[0::2] == ['model', 'M', 'G']


def test_a_name_of_the_zoo_has_a_table(capsys):
    tool.main(['vminet_ti', '--shape', '64', '96', '--depth', '2'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'one image of 64 x 96'
    table = {line.split()[0]: line.split() for line in lines[lines.index('') + 2 :]}
    assert {'backbone', 'backbone.stem', 'backbone.stages', 'head'} <= table.keys()
    assert not [name for name in table if name.count('.') > 1]
    model = mmssm.create_model('vminet_ti')
    stem = sum(p.numel() for p in model.backbone.stem.parameters())
    assert table['backbone.stem'][1:3] == ['ConvNormAct', f'{stem:,}']
    macs = {name: int(line[3].replace(',', '')) for name, line in table.items()}
    total = mmssm.count_macs(model, (1, 3, 64, 96)).total
    assert macs['backbone'] + macs['head'] == total


def test_parts_of_a_detector_add_up(capsys):
    path = ROOT / 'configs/demo/mask-rcnn_spatialmamba-demo_fpn_shapes.py'
    tool.main([str(path), '--shape', '64', '64', '--depth', '1'])
    lines = capsys.readouterr().out.splitlines()
    macs = [
        int(line.split()[3].replace(',', '')) for line in lines[lines.index('') + 2 :]
    ]
    assert sum(macs) == tool.sizes(Config.fromfile(path), (64, 64)).model.total


def test_a_shape_without_pixels_and_a_strange_name_are_refused():
    with pytest.raises(UserError, match=r'--shape is \[0, 64\]; expected'):
        tool.main(['vminet_ti', '--shape', '0', '64'])
    with pytest.raises(UserError, match='Did you mean vminet_ti?'):
        tool.main(['vmine_ti'])
    with pytest.raises(UserError, match='vminet_ti is a name'):
        tool.main(['vminet_ti', '--cfg-options', 'a=1'])


def test_heads_are_counted_for_all_proposals():
    path = ROOT / 'configs/demo/mask-rcnn_spatialmamba-demo_fpn_shapes.py'
    few, more = (Config.fromfile(path) for _ in range(2))
    few.model.test_cfg.rpn.max_per_img = 10
    more.model.test_cfg.rpn.max_per_img = 20
    few, more = (tool.sizes(cfg, (64, 64)).model.total for cfg in (few, more))
    fully_connected = 256 * 7 * 7 * 256
    assert more - few > 10 * fully_connected
