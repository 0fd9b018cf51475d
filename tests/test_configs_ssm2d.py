"""Configs with a 2-D SSM decay what the released code does, and the README is right."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

FOLDER = Path(__file__).parents[1] / 'configs/ssm2d'
README = (FOLDER / 'README.md').read_text()
SWIN = 'mask-rcnn_swin-t-ssm2d_fpn_1x_coco'
NAMES = [
    SWIN,
    'deit-s-ssm2d_upernet_4xb4-160k_ade20k-512x512',
    'mega-t_upernet_4xb4-160k_ade20k-512x512',
]
each_config = pytest.mark.parametrize('name', NAMES)


def decayed(cfg):
    """Names of the backbone's parameters with weight decay, and without."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        backbone = MODELS.build(cfg.model.backbone)
        model = nn.ModuleDict({'backbone': backbone})
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    names = {id(p): n for n, p in backbone.named_parameters()}
    found = [{}, {}]
    for group in groups:
        for parameter in group['params']:
            found[group['weight_decay'] == 0][names[id(parameter)]] = parameter
    return found


@each_config
def test_of_the_layer_A_alone_is_decayed(name):
    for with_decay, names in zip(
        (True, False), decayed(Config.fromfile(FOLDER / f'{name}.py')), strict=True
    ):
        layers = {n[-1] for n in names if re.search(r'(ssm2d|mixer)\.[ABC]$', n)}
        assert layers == ({'A'} if with_decay else {'B', 'C'})
        if with_decay:
            spared = ('gain', 'bias_table', 'pos_embed', 'cls_token', 'stem.position')
            assert not any(n.endswith(spared) for n in names)


def test_option_of_the_readme_spares_A_too():
    option = re.search(r'^optim_wrapper = .*$', README, re.MULTILINE)
    cfg = Config.fromfile(FOLDER / f'{SWIN}.py')
    cfg.merge_from_dict(Config.fromstring(option[0], '.py').to_dict())
    assert not any(n.endswith('ssm2d.A') for n in decayed(cfg)[0])


def test_one_line_turns_a_config_with_swin_into_one_with_the_layer(tmp_path):
    plain = Config.fromfile(FOLDER / f'{SWIN}.py')
    plain.model.backbone = plain.model.backbone.host
    plain.dump(tmp_path / 'my_mask_rcnn_swin_config.py')
    block = re.search(r"```python\n(_base_ = './my_mask.*?)```", README, re.DOTALL)
    (tmp_path / 'with_layer.py').write_text(block[1])
    cfg = Config.fromfile(tmp_path / 'with_layer.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        host = MODELS.build(plain.model.backbone)
    assert type(model.backbone) is type(host)
    host.eval(), model.eval()
    host.load_state_dict(model.backbone.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert all(map(torch.equal, model.backbone(x), host(x)))
