"""The command mmssm-evaluate on a model of the zoo, with PyTorch and Pillow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmssm import create_model
from mmssm.analysis.accuracy import Recipe, read_picture
from mmssm.backbones import hierarchical
from mmssm.openmmlab import cli
from mmssm.openmmlab.commands import evaluate

ROOT = Path(__file__).resolve().parents[2]
SMALL = ['--resize', '36', '--crop', '32', '--workers', '0', '--device', 'cpu']
NAMES = ('n01', 'n02', 'n03')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Six pictures of three classes, and a classifier of these with random weights."""
    root = tmp_path_factory.mktemp('evaluate')
    draw = np.random.default_rng(0)
    for name in NAMES:
        (root / 'val' / name).mkdir(parents=True)
        for number in range(2):
            array = draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(array).save(root / f'val/{name}/{number}.JPEG')
    torch.manual_seed(0)
    model = create_model('vminet_xs', num_classes=3)
    model.head.weight.data *= 50  # answers that differ
    torch.save({'state_dict': model.state_dict()}, root / 'own.pth')
    torch.save(create_model('vminet_xs').state_dict(), root / '1000.pth')
    return root


@pytest.fixture
def run(folder, capsys):
    """Run the command on a folder; its output, and its status or message."""

    def call(*options, weights='own.pth', pictures='val', model='vminet_xs'):
        source = weights if weights == 'official' else str(folder / weights)
        status = None
        argv = [model, str(folder / pictures), '--weights', source, *SMALL, *options]
        try:
            cli.evaluate(argv)
        except SystemExit as error:
            status = error.code
        return capsys.readouterr(), status

    return call


def answers(folder):
    model = create_model('vminet_xs', weights=folder / 'own.pth', num_classes=3).eval()
    paths = sorted((folder / 'val').rglob('*.JPEG'))
    x = torch.stack([read_picture(path, Recipe(36, 32)) for path in paths])
    with torch.no_grad():
        return model(x).argmax(1).tolist()


def test_top1_beside_what_was_published(run, folder):
    output, status = run()
    assert status is None
    right = sum(
        a == b for a, b in zip(answers(folder), [0, 0, 1, 1, 2, 2], strict=True)
    )
    lines = output.out.splitlines()
    assert '6 pictures of 3 classes, 32 x 32 of short side 36' in lines[0]
    assert lines[1].startswith(f'top-1 {100 * right / 6:6.2f}   published')
    assert lines[1].endswith('76.5')
    assert len(lines) == 2  # top-5 of three classes says nothing


def test_a_list_of_classes_gives_their_order(run, folder):
    (folder / 'list.txt').write_text('n03 bird\nn01 cat, tabby\n\nn02\n')
    output, _ = run('--classes', str(folder / 'list.txt'))
    right = sum(
        a == b for a, b in zip(answers(folder), [1, 1, 2, 2, 0, 0], strict=True)
    )
    assert f'top-1 {100 * right / 6:6.2f}' in output.out


def test_a_folder_may_lack_classes_of_the_list(run, folder):
    names = [*NAMES, *(f'm{i:03}' for i in range(997))]
    (folder / 'thousand.txt').write_text('\n'.join(names))
    output, status = run('--classes', str(folder / 'thousand.txt'), weights='1000.pth')
    assert status is None
    assert '6 pictures of 1000 classes' in output.out
    assert 'top-5' in output.out


def test_released_weights_are_the_default(run, folder, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        return folder / 'own.pth'

    monkeypatch.setattr(hierarchical, 'fetch', fetch)
    output, status = run(weights='official')
    assert status is None
    assert asked == ['vminet_xs']
    assert 'with the weights official' in output.out
    assert evaluate._parser('x').parse_args(['m', 'f']).weights == 'official'
    _, message = run(weights='official', model='vminet_ti')
    assert "no weights were released for 'vminet_ti'" in message


def test_pictures_that_cannot_be_read(run, folder):
    broken = folder / 'some/n01/bad.jpeg'
    for name in NAMES:
        (folder / 'some' / name).mkdir(parents=True)
    (folder / 'some/n02/0.png').write_bytes((folder / 'val/n02/0.JPEG').read_bytes())
    broken.write_bytes(b'\xff\xd8 no more')
    output, status = run(pictures='some')
    assert status == 1
    assert '1 pictures of 3 classes' in output.out
    assert f'1 pictures cannot be read and do not count: {broken}' in output.err


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (
            dict(model='vminet_xx'),
            "no model 'vminet_xx' and it is no config .*vminet_ti",
        ),
        (dict(weights='1000.pth'), 'of 1000 classes, but .*val has 3; --classes FILE'),
        (dict(weights='none.pth'), 'none.pth'),
        (dict(pictures='absent'), 'no folder .*absent'),
        (dict(model='spatial_mamba_tiny'), 'own.pth'),
    ],
)
def test_mistakes_are_one_line(run, options, words):
    output, message = run(**options)
    assert message.startswith('mmssm-evaluate: ')
    assert re.search(words, message), message
    assert output.out == ''


def test_weights_of_a_backbone_alone(run, folder):
    backbone = create_model('vminet_xs', features_only=True)
    torch.save(backbone.state_dict(), folder / 'backbone.pth')
    _, message = run(weights='backbone.pth')
    assert 'has no head; expected the weights of a classifier' in message


def test_lists_that_cannot_be_used(run, folder):
    _, message = run('--classes', str(folder / 'absent.txt'))
    assert 'no list of classes at' in message
    (folder / 'twice.txt').write_text('n01\nn02\nn01\n')
    _, message = run('--classes', str(folder / 'twice.txt'))
    assert 'has classes twice: n01' in message


def test_without_openmmlab(folder):
    code = (
        'import sys\n'
        "for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'numpy'):\n"
        '    sys.modules[name] = None\n'
        'from mmssm.openmmlab.cli import evaluate\n'
        f'evaluate({["vminet_xs", str(folder / "val"), *SMALL]}'
        f' + ["--weights", {str(folder / "own.pth")!r}])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '6 pictures of 3 classes' in done.stdout
