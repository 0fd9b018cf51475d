"""The comparison of resampling choices prints one row for each."""

import json

import pytest
import torch

from mmssm.backbones import VMINet
from mmssm.layers.separable_attention import RESAMPLE
from tools.analysis import vminet_resampling as tool

SMALL = {'channels': 8, 'depths': (1, 1, 1, 1), 'expand': 2}


@pytest.mark.parametrize('positions', ['noise', 'smooth'])
def test_one_row_for_each_choice(capsys, positions):
    options = ['--arch', json.dumps(SMALL), '--train-size', '64', '--images', '2']
    tool.main([*options, '--positions', positions])
    title, *rows = capsys.readouterr().out.splitlines()
    assert len(title.split('x ')) - 1 == len(tool.SCALES)
    assert [row[:12].strip() for row in rows] == [tool.NO_CONTEXT, *RESAMPLE]
    for row in rows:
        values = [float(v) for v in row[12:].split()]
        assert len(values) == len(tool.PADDINGS) + len(tool.SCALES)
        assert all(0 < v < 10 for v in values)


def test_an_image_as_it_is_changes_nothing(monkeypatch):
    monkeypatch.setattr(tool, 'PADDINGS', (1,))
    monkeypatch.setattr(tool, 'SCALES', (1,))
    model = VMINet(SMALL)
    changes = tool.changes(model.eval(), tool.random_scenes(2, 224))
    assert changes == pytest.approx([0, 0], abs=1e-6)


def test_choices_are_made_on_a_copy():
    model = VMINet(SMALL)
    for choice in (tool.NO_CONTEXT, 'window'):
        tool.with_choice(model, choice)
    attention = model.stages[0].blocks[0].attention
    assert attention.resample == 'bicubic'
    assert torch.equal(attention.mix, torch.ones(2))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SystemExit, match=f'no checkpoint at {tmp_path}/a.pth'):
        tool.main(['--checkpoint', str(tmp_path / 'a.pth')])
