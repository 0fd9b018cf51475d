"""Files are compared with their models before their times are reported."""

import pytest
import torch
from torch import nn

from mmssm.backbones import ConvNeXt
from mmssm.export import refusal
from tools.benchmarks import exported
from tools.benchmarks.backbones import Backbone

pytestmark = pytest.mark.skipif(
    refusal.missing() != [], reason=f'ONNX files need {", ".join(refusal.PACKAGES)}'
)
ARGUMENTS = ['--size', '40x56', '--repeats', '3', '--cases', 'small']


@pytest.fixture
def small(monkeypatch):
    """One backbone of ours, beside a peer that is not to be measured."""

    def build(size, with_cp):
        return ConvNeXt({'channels': (8,), 'depths': (1,)}, out_indices=(0,))

    known = {'peer': Backbone(None, ours=False), 'small': Backbone(build, ours=True)}
    monkeypatch.setattr(exported, 'backbones', lambda: known)
    before = torch.get_num_threads()
    yield known
    torch.set_num_threads(before)


def test_a_table_of_what_was_written_and_of_what_was_there(small, tmp_path, capsys):
    page = tmp_path / 'page.md'
    page.write_text('# A\n\n<!-- benchmark x -->\n<!-- end of benchmark -->\n\nend\n')
    files = ['--files', str(tmp_path / 'files')]
    exported.main([*ARGUMENTS, *files, '--into', str(page), 'x'])
    assert (tmp_path / 'files/small.onnx').is_file()
    written = page.read_text()
    assert written.endswith('<!-- end of benchmark -->\n\nend\n')
    *_, row = [line for line in written.splitlines() if line.startswith('| small')]
    name, eager, onnx, error, size, writing = row.strip('| ').split(' | ')
    assert float(error) < 1e-5
    assert (eager[-2:], onnx[-2:], size[-3:], writing[-2:]) == (' s', ' s', ' MB', ' s')
    assert 'size 40x56, repeats 3' in written
    capsys.readouterr()
    exported.main([*ARGUMENTS, *files])
    *_, row = capsys.readouterr().out.splitlines()
    assert row.startswith('| small |')
    assert row.endswith('MB |  |')  # was there


def test_a_file_of_another_model_is_not_timed(small, tmp_path, monkeypatch):
    files = ['--files', str(tmp_path)]
    exported.main([*ARGUMENTS, *files])
    monkeypatch.setattr(exported, 'take_turns', None)
    monkeypatch.setattr(exported, 'move_zeros', _double)
    with pytest.raises(ValueError, match=r'nothing is reported: .*small\.onnx differs'):
        exported.main([*ARGUMENTS, *files])


def _double(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)


def test_only_backbones_of_ours(small):
    with pytest.raises(ValueError, match=r"'peer' fits no case; there are: .*small"):
        exported.main(['--cases', 'peer'])
