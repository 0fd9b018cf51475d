"""The converter writes a checked file, or nothing."""

import json

import golden
import pytest
import torch

from mmssm.backbones import ConvNeXt, Mega, SpatialMamba, VMINet
from mmssm.openmmlab.commands import convert as tool
from mmssm.weights import compare, load_file, save_file

MEGA = dict(channels=(8,) * 4, depths=(1, 1, 2, 1), patch=8, shared=3, expanded=5)


@pytest.fixture(scope='module')
def official():
    """Our tiny weights under the official names."""
    renames = [
        ('stem.', 'patch_embed.'),
        ('out_norms.', 'outnorm'),
        ('.position', '.cpe'),
        ('.norm1.', '.ln_1.'),
        ('.norm2.', '.ln_2.'),
        ('.ssm.conv.', '.ssm.conv2d.'),
        ('.x_proj.weight', '.x_proj_weight'),
        ('.dt_proj.', '.dt_projs_'),
        ('.A_log', '.A_logs'),
        ('.ssm.D', '.ssm.Ds'),
        ('.ssm.', '.self_attention.'),
    ]
    named = {}
    for name, weight in SpatialMamba('tiny').state_dict().items():
        if '.downsample.' in name:
            _, stage, rest = name.split('.', 2)
            rest = rest.replace('downsample.', 'downsample.conv.')
            named[f'layers.{int(stage) - 1}.{rest}'] = weight
            continue
        name = name.replace('stages.', 'layers.', 1)
        for ours, theirs in renames:
            name = name.replace(ours, theirs)
        if name.endswith('kernels'):
            for suffix, kernel in zip(('', '_1', '_2'), weight, strict=True):
                named[name.replace('kernels', f'kernel_3{suffix}')] = kernel[:, None]
        else:
            named[name] = weight
    return named


def test_classifier_becomes_a_backbone_file(official, tmp_path, capsys):
    classifier = {k: v for k, v in official.items() if 'outnorm' not in k}
    classifier['head.weight'] = torch.zeros(10, 512)
    save_file({'model': classifier}, tmp_path / 'a.pth')
    target = tmp_path / 'new' / 'b.pth'
    assert tool.main([str(tmp_path / 'a.pth'), str(target)]) == 0
    assert "SpatialMamba 'tiny'" in capsys.readouterr().out
    cfg = {'type': 'Pretrained', 'checkpoint': str(target)}
    backbone = SpatialMamba('tiny', init_cfg=cfg)
    backbone.init_weights()
    kernel = backbone.stages[0].blocks[0].ssm.conv.weight
    expected = classifier['layers.0.blocks.0.self_attention.conv2d.weight']
    assert torch.equal(kernel, expected)


def test_detector_keeps_its_heads(official, tmp_path):
    detector = {f'backbone.{k}': v for k, v in official.items()}
    detector['rpn_head.rpn_cls.bias'] = torch.ones(3)
    save_file({'state_dict': detector}, tmp_path / 'a.pth')
    assert tool.main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')]) == 0
    written = load_file(tmp_path / 'b.pth')
    expected = {f'backbone.{k}' for k in SpatialMamba('tiny').state_dict()}
    assert written['state_dict'].keys() == expected | {'rpn_head.rpn_cls.bias'}
    assert written['meta']['arch'] == 'tiny'


def test_differences_are_named_and_nothing_is_written(official, tmp_path, capsys):
    broken = dict(official)
    del broken['layers.0.blocks.0.mlp.fc1.bias']
    save_file(broken, tmp_path / 'a.pth')
    paths = [str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')]
    assert tool.main(paths) == 1
    assert 'missing (1): stages.0.blocks.0.mlp.fc1.bias' in capsys.readouterr().err
    assert tool.main([*paths, '--arch', 'tiny']) == 1
    assert 'missing (1): stages.0.blocks.0.mlp.fc1.bias' in capsys.readouterr().err
    assert not (tmp_path / 'b.pth').exists()
    assert tool.main([*paths, '--arch', 'tiny', '--allow-missing', '*.bias']) == 0


@pytest.mark.parametrize(
    'model',
    [
        SpatialMamba(dict(channels=(8, 20, 24), depths=(1, 2, 1)), out_indices=(2,)),
        ConvNeXt(dict(channels=8, depths=(1, 3)), out_indices=(0, 1)),
        VMINet(dict(channels=8, depths=(1, 2, 1, 1), expand=3), train_size=(97, 130)),
        Mega({**MEGA, 'hidden': 6}, train_size=(64, 96)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_sizes_are_read_from_the_weights(model):
    weights = model.state_dict()
    assert type(model).arch_of(weights) is None
    read = type(model)(**type(model).options_of(weights))
    report = compare(weights, read)
    assert not report.unexpected
    assert not report.mismatched
    assert all(name.startswith('out_norms') for name in report.missing)
    assert type(model).options_of({'head.weight': torch.ones(1)}) is None


def test_a_size_that_nobody_released_is_converted(tmp_path, capsys):
    keys = json.loads((golden.DATA / 'spatial_mamba_tiny_keys.json').read_text())
    weights = {name: golden.weight(name, tuple(shape)) for name, shape in keys}
    save_file({'model': weights}, tmp_path / 'a.pth')
    target = tmp_path / 'b.pth'
    assert tool.main([str(tmp_path / 'a.pth'), str(target)]) == 0, capsys.readouterr()
    meta = load_file(target)['meta']
    backbone = SpatialMamba(meta['arch'])
    backbone.load_pretrained(target)
    assert backbone.arch is None


def test_other_files_are_refused(tmp_path, capsys):
    save_file({'conv1.weight': torch.ones(1)}, tmp_path / 'a.pth')
    assert tool.main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')]) == 1
    assert "its first key is 'conv1.weight'" in capsys.readouterr().err
    assert tool.main([str(tmp_path / 'c.pth'), str(tmp_path / 'b.pth')]) == 1
    assert 'no checkpoint at' in capsys.readouterr().err


def test_weights_without_a_backbone_of_ours_are_refused(tmp_path, capsys):
    save_file({'layers.0.blocks.0.move.C_1': torch.zeros(8, 4)}, tmp_path / 'a.pth')
    assert tool.main([str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')]) == 1
    assert "family 'ssm2d_swin' belong to" in capsys.readouterr().err


def test_weights_of_other_shapes_are_not_written(official, tmp_path, capsys):
    name = 'layers.0.blocks.0.self_attention.conv2d.bias'
    save_file({'model': official | {name: torch.zeros(3)}}, tmp_path / 'a.pth')
    arguments = [str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), '--arch', 'tiny']
    assert tool.main(arguments) == 1
    assert 'mismatched (1): stages.0.blocks.0.ssm.conv.bias' in capsys.readouterr().err
    assert not (tmp_path / 'b.pth').exists()
