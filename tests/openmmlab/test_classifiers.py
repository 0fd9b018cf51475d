"""Commands on configs of mmpretrain: what they count, see and write, or refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain')

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmssm.analysis.flops import count_macs
from mmssm.openmmlab import cli
from mmssm.openmmlab.commands import flops
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.exporting import refuse_any_size
from mmssm.openmmlab.looking import subjects

pytestmark = pytest.mark.filterwarnings('ignore')
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DEMO = str(CONFIGS / 'demo/spatialmamba-demo_classes.py')
CIFAR = str(CONFIGS / 'ssm2d/vit-mini-ssm2d_1xb128_cifar100.py')
PICTURE = np.random.default_rng(0).integers(0, 256, (50, 83, 3), np.uint8)


def build(cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg.model).eval()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A classifier, its checkpoint, and a picture."""
    folder = tmp_path_factory.mktemp('classifier')
    model = build(Config.fromfile(DEMO))
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, folder / 'a.pth')
    Image.fromarray(PICTURE).save(folder / 'a.png')
    return model, str(folder / 'a.pth'), str(folder / 'a.png')


@pytest.mark.parametrize(
    ('name', 'side'),
    [
        ('demo/spatialmamba-demo_classes', 64),
        ('vminet/vminet-ti_3xb256_in1k', 224),
        ('ssm2d/deit-t-ssm2d_8xb128_in1k', 224),
        ('ssm2d/mega-mini-ssm2d_1xb128_tiny-imagenet', 64),
        ('ssm2d/swin-mini_1xb128_cifar100', 32),
    ],
)
def test_a_picture_is_of_the_size_of_the_tests(name, side):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    assert flops.default_shape(cfg) == (side, side)


def test_backbone_and_head_are_counted(trained, capsys):
    model, *_ = trained
    cli.flops([DEMO, '--depth', '1'])
    lines = capsys.readouterr().out.splitlines()
    lines = lines[lines.index('one image of 64 x 64') :]
    table = {line.split()[0]: line.split()[2:] for line in lines[-2:]}
    for name, macs in (
        ('backbone', count_macs(model.backbone, (1, 3, 64, 64)).total),
        ('head', 192 * 6),
    ):
        parameters = sum(p.numel() for p in getattr(model, name).parameters())
        assert table[name] == [f'{parameters:,}', f'{macs:,}']


def test_what_is_looked_at_is_what_the_classifier_gets(trained):
    """Colours in their order: of a file, which mmcv reads as BGR, and of CIFAR."""
    model, weights, path = trained
    (subject,) = subjects.find([DEMO], [weights], None, 'cpu')
    blue_first = torch.from_numpy(PICTURE[..., ::-1].copy()).permute(2, 0, 1)[None]
    expected = model.data_preprocessor({'inputs': blue_first})['inputs']
    picture = subjects.read(path)
    torch.testing.assert_close(subject.input(picture), expected, rtol=0, atol=1e-5)
    cfg = Config.fromfile(DEMO)
    cfg.model.data_preprocessor.to_rgb = False
    assert subjects.takes_bgr(cfg)
    assert not subjects.takes_bgr(Config.fromfile(CIFAR))


def test_maps_are_drawn_and_vectors_are_refused(trained, tmp_path):
    _, weights, path = trained
    options = ['--image', path, '--size', '64', '--out', str(tmp_path)]
    cli.look(['features', DEMO, '--checkpoint', weights, *options])
    numbers = json.loads((tmp_path / 'features.json').read_text())
    (found,) = numbers['maps'].values()
    assert found[-1]['shape'] == [192, 2, 2]
    with pytest.raises(SystemExit, match=r'gives \(1, 192\); expected maps'):
        cli.look(['features', CIFAR, *options])
    field = ['receptive-field', CIFAR, '--size', '32', '--out', str(tmp_path)]
    with pytest.raises(SystemExit, match=r'has shape \(1, 192\); expected a map'):
        cli.look(field)


def test_logits_are_exported(trained, tmp_path, capsys):
    model, weights, _ = trained
    out = tmp_path / 'a.pt2'
    flags = ['--to', 'torch', '--out', str(out), '--size', '64', '96', '--check']
    cli.export([DEMO, weights, *flags])
    printed = capsys.readouterr().out
    assert '64 x 96: equal' in printed
    assert 'Input: RGB, minus (123.675, ' in printed
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = torch.export.load(out).module()(x)
        torch.testing.assert_close(found, model(x, mode='tensor'))


def test_windows_of_mmpretrain_are_exported_for_one_size():
    cfg = Config.fromfile(CONFIGS / 'ssm2d/swin-mini_1xb128_cifar100.py')
    with pytest.raises(UserError, match='SwinTransformer has .* --size HEIGHT WIDTH'):
        refuse_any_size(build(cfg))
    refuse_any_size(build(Config.fromfile(DEMO)))


@pytest.mark.parametrize('command', ['predict', 'cam'])
def test_what_draws_objects_refuses_classifiers(command, trained, tmp_path):
    _, weights, path = trained
    out = ['--out', str(tmp_path / 'out')]
    command, argv = {
        'predict': (cli.predict, [DEMO, weights, path]),
        'cam': (cli.look, ['cam', DEMO, '--checkpoint', weights, '--image', path]),
    }[command]
    with pytest.raises(SystemExit, match=r'is a classifier, .*mmssm-evaluate CONFIG'):
        command([*argv, *out])
    assert not (tmp_path / 'out').exists()
