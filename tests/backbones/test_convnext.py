"""mmssm.ConvNeXt: its block, its published sizes, and released weights."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_equal_in_double

from mmssm.backbones import ConvNeXt
from mmssm.backbones.convnext import ConvNeXtBlock
from mmssm.weights import detect_family

SMALL = {'channels': 8, 'depths': (1, 2, 1, 1)}


@pytest.mark.parametrize(
    ('arch', 'count'), [('tiny', 28589128), ('small', 50223688), ('base', 88591464)]
)
def test_published_number_of_parameters(arch, count):
    with torch.device('meta'):
        model = ConvNeXt(arch)
    named = model.named_parameters()
    body = sum(p.numel() for n, p in named if not n.startswith('out_norms'))
    channels = model.channels[-1]
    assert body + 2 * channels + 1000 * (channels + 1) == count


def test_block_is_its_equation():
    torch.manual_seed(0)
    block = ConvNeXtBlock(6, layer_scale=0.3, drop_path_rate=0.0).double()
    x = torch.randn(2, 6, 9, 7).double()
    conv = block.depthwise_conv
    y = F.conv2d(x, conv.weight, conv.bias, padding=3, groups=6).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (6,), block.norm.weight, block.norm.bias, 1e-6)
    y = block.mlp.fc2(F.gelu(block.mlp.fc1(y))).permute(0, 3, 1, 2)
    assert_equal_in_double(block(x), x + 0.3 * y)


@pytest.mark.parametrize('package', ['released', 'mmpretrain'])
def test_released_weights_load(package, tmp_path):
    long = package == 'mmpretrain'
    renames = [
        ('stem.conv', 'downsample_layers.0.0'),
        ('stem.norm', 'downsample_layers.0.1'),
        ('.blocks.', '.'),
        ('.mlp.fc', '.pointwise_conv' if long else '.pwconv'),
        ('depthwise_conv', 'depthwise_conv' if long else 'dwconv'),
        ('out_norms.', 'norm'),
    ]
    source, weights = ConvNeXt(SMALL), {}
    for name, value in source.state_dict().items():
        for ours, theirs in renames:
            name = name.replace(ours, theirs)
        for stage in range(1, 4):
            for part, number in (('norm', 0), ('conv', 1)):
                old = f'stages.{stage}.downsample.{part}.'
                name = name.replace(old, f'downsample_layers.{stage}.{number}.')
        weights[f'backbone.{name}' if long else name] = torch.randn_like(value)
    assert detect_family(weights) == 'convnext'
    torch.save({'state_dict' if long else 'model': weights}, tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    model = ConvNeXt(SMALL, init_cfg=init_cfg)
    model.init_weights()
    for ours, theirs in zip(model.state_dict().values(), weights.values(), strict=True):
        assert torch.equal(ours, theirs)
