"""A classifier is trained, and its checkpoint goes on into a detector as it is."""

import itertools
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from openmmlab.engine import tiny
from PIL import Image

pytest.importorskip('mmpretrain')

import mmpretrain
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmssm import zoo
from mmssm.backbones import VMINet
from mmssm.openmmlab import cli

NUMBERS = itertools.count()
ARCH = dict(channels=4, depths=(1, 1, 1, 1))
SWIN = dict(
    type='mmpretrain.SwinTransformer',
    arch=dict(embed_dims=4, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    img_size=64,
    window_size=2,
    pad_small_map=True,
)
HOST = dict(type='mmssm.SSM2DHost', start='published', num_states=2)
# backbone of the classifier, and the parts that make that of a detector of it
BACKBONES = {
    'Spatial-Mamba': (dict(type='mmssm.SpatialMamba', arch=ARCH, out_indices=(3,)), 32),
    'VMINet': (
        dict(
            type='mmssm.VMINet',
            arch=dict(ARCH, expand=2),
            out_indices=(3,),
            train_size=64,
        ),
        32,
    ),
    'Swin + 2-D SSM': (dict(HOST, host=SWIN), 32),
}
CONFIG = """
_base_ = '{root}/configs/_base_/cls/imagenet_300e.py'
model = dict(
    backbone={backbone}, data_preprocessor=dict(num_classes=3),
    head=dict(num_classes=3, in_channels={channels}))
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
flip = dict(type='RandomFlip', prob=0.5)
folder = dict(
    _delete_=True, type='CustomDataset', data_root='{folder}', data_prefix='')
loader = dict(batch_size=3, num_workers=0, persistent_workers=False, drop_last=False)
train_dataloader = dict(dataset=dict(pipeline=[load, flip, pack], **folder), **loader)
val_dataloader = dict(dataset=dict(pipeline=[load, pack], **folder), **loader)
test_dataloader = dict(dataset=dict(pipeline=[load, pack], **folder), **loader)
val_evaluator = test_evaluator = dict(topk=(1,))
train_cfg = dict(max_epochs=2)
custom_hooks = [dict(type='mmssm.MESAHook', begin=0.5, momentum=0.2)]
"""


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('classes')
    draw = np.random.default_rng(0)
    for label, number in itertools.product(range(3), range(3)):
        array = draw.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        array[..., label] += 150
        (folder / f'n{label}').mkdir(exist_ok=True)
        Image.fromarray(array).save(folder / f'n{label}/{number}.png')
    return folder


def write_config(name, pictures, folder):
    backbone, channels = BACKBONES[name]
    root = tiny.__file__.partition('/tests/')[0]
    text = CONFIG.format(
        root=root, backbone=backbone, channels=channels, folder=pictures
    )
    if name == 'VMINet':
        neck = (
            f"dict(_delete_=True, type='mmssm.NormedPooling', in_channels={channels},"
        )
        text += f"model['neck'] = {neck} norm_cfg=dict(type='BN'))\n"
    config = folder / 'classifier.py'
    config.write_text(text)
    return config


def pretrained(name, pictures, folder):
    """A checkpoint of a classifier by our own tool."""
    config = write_config(name, pictures, folder)
    options = ['--fit-schedule', '--cfg-options']
    options += [f'experiment_name=pretrain{next(NUMBERS)}']
    cli.train([str(config), '--work-dir', str(folder / 'classifier'), *options])
    return (folder / 'classifier/last_checkpoint').read_text()


@pytest.mark.parametrize('name', BACKBONES)
def test_a_detector_starts_from_a_classifier(name, pictures, tmp_path, capsys):
    checkpoint = pretrained(name, pictures, tmp_path)
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    tiny.write_data(tmp_path / 'data')
    config = tiny.write_config(tmp_path, 'detection')
    start = dict(type='Pretrained', checkpoint=checkpoint)
    backbone = dict(BACKBONES[name][0], out_indices=(0, 1, 2, 3), init_cfg=start)
    if 'host' in backbone:
        start['prefix'] = 'backbone.'
        host = dict(backbone['host'], out_indices=(0, 1, 2, 3), init_cfg=start)
        backbone = dict(BACKBONES[name][0], host=host)
    with config.open('a') as file:
        file.write(f"model['backbone'] = {backbone}\n")

    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    own = model.backbone.state_dict()
    passed = {k for k in own if f'backbone.{k}' in weights}
    assert all(torch.equal(own[k], weights[f'backbone.{k}']) for k in passed)
    left = own.keys() - passed
    norms = ('out_norms.', 'norm0', 'norm1', 'norm2')
    assert all(k.startswith(norms) or 'position_index' in k for k in left), left

    options = ['--cfg-options', f'experiment_name=detect{next(NUMBERS)}']
    cli.train([str(config), '--work-dir', str(tmp_path / 'detector'), *options])
    assert 'coco/bbox_mAP' in capsys.readouterr().out


def test_a_checkpoint_is_evaluated_with_torch_alone(
    pictures, tmp_path, capsys, monkeypatch
):
    """The norm in the neck of a VMINet is that of our classifier."""

    class Small(VMINet):
        zoo = {'xs': dict(channels=(4, 8, 16, 32), depths=(1, 1, 1, 1), expand=2)}

        def __init__(self, arch='xs', **options):
            super().__init__(arch, train_size=64, **options)

    checkpoint = pretrained('VMINet', pictures, tmp_path)
    found = last_top1(capsys.readouterr().out)
    monkeypatch.setitem(zoo.MODELS, 'vminet_xs', (Small, 'xs'))
    options = ['--resize', '64', '--crop', '64', '--workers', '0', '--device', 'cpu']
    cli.evaluate(['vminet_xs', str(pictures), '--weights', checkpoint, *options])
    text = capsys.readouterr().out
    assert f'top-1 {found:6.2f}' in text


def last_top1(text):
    """Top-1 of the last validation."""
    return float(text.split('accuracy/top1: ')[-1].split()[0])


def test_the_stock_tools_of_mmpretrain(pictures, tmp_path, capsys, monkeypatch):
    config = write_config('Spatial-Mamba', pictures, tmp_path)
    tools = Path(mmpretrain.__file__).parent / '.mim/tools'
    work_dir = str(tmp_path / 'stock')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(config), '--work-dir', work_dir])
    runpy.run_path(str(tools / 'train.py'), run_name='__main__')
    last = (tmp_path / 'stock/last_checkpoint').read_text()
    found = last_top1(capsys.readouterr().out)
    argv = ['test.py', str(config), last, '--work-dir', work_dir]
    monkeypatch.setattr(sys, 'argv', argv)
    runpy.run_path(str(tools / 'test.py'), run_name='__main__')
    assert last_top1(capsys.readouterr().out) == found


def test_where_mmpretrain_is_alone(pictures, tmp_path):
    """Without mmdet and mmseg."""
    config = write_config('Spatial-Mamba', pictures, tmp_path)
    code = (
        'import sys, conftest\n'  # declares operators of torchvision
        "for name in ('mmdet', 'mmseg', 'pycocotools'):\n"
        '    sys.modules[name] = None\n'
        'from mmssm.openmmlab import cli\n'
        f'cli.train([{str(config)!r}, "--work-dir", {str(tmp_path / "run")!r}])'
    )
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / 'tests')])
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'accuracy/top1' in done.stdout


def test_a_look_at_the_data(pictures, tmp_path, capsys):
    """Folders of val that are not those of train, and a head for other classes."""
    config = write_config('Spatial-Mamba', pictures, tmp_path)
    cli.check_data([str(config)])
    assert '0 errors' in capsys.readouterr().out
    wrong = 'model.head.num_classes=5'
    with pytest.raises(SystemExit) as ended:
        cli.train([str(config), '--work-dir', str(tmp_path), '--cfg-options', wrong])
    assert 'model.head.num_classes is 5, but' in ended.value.code
    (tmp_path / 'val/other').mkdir(parents=True)
    for number in range(3):
        source = pictures / 'n0/0.png'
        (tmp_path / f'val/n{number}').mkdir()
        for folder in (f'n{number}', 'other'):
            (tmp_path / f'val/{folder}/0.png').write_bytes(source.read_bytes())
    other = f'val_dataloader.dataset.data_root={tmp_path / "val"}'
    with pytest.raises(SystemExit) as ended:
        cli.train([str(config), '--work-dir', str(tmp_path), '--cfg-options', other])
    assert 'ERROR: other classes than train_dataloader.dataset' in ended.value.code
    assert '(4 in all); there n0, n1, n2' in ended.value.code
