"""Programs of torch.export: any size, whole operators, and clear refusals."""

import pytest
import torch
from export.networks import mega, small, vminet

from mmssm.export import compare_program, export_program, save_program

SIZES = [(64, 64), (33, 71), (97, 130)]


@pytest.mark.parametrize('family', ['spatial_mamba', 'vminet'])
def test_one_program_gives_what_torch_gives_at_every_size(family, tmp_path):
    model, path = small(family), tmp_path / 'model.pt2'
    save_program(export_program(model), path)
    found = compare_program(path, model, SIZES)
    assert all(one.holds for one in found), found


def test_operators_stay_whole_unless_asked():
    program = export_program(small('spatial_mamba'), dynamic=False)
    assert 'mmssm.observe.default' in _targets(program)


def _targets(program):
    return {str(node.target) for node in program.graph.nodes}


def test_model_stays_as_it_is():
    model = small('ssm2d_host').train()
    before = dict(model.named_parameters())
    export_program(model, dynamic=False)
    assert model.training
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert all(parameter.requires_grad for parameter in after.values())


def test_one_size():
    model, x = mega(mixer='ema').eval(), torch.randn(1, 3, 48, 80)
    program = export_program(model, x, dynamic=False)
    with torch.no_grad():
        expected = model(x)
    for actual, other in zip(program.module()(x), expected, strict=True):
        torch.testing.assert_close(actual, other)


@pytest.mark.parametrize(
    ('model', 'reason'),
    [
        (lambda: mega(mixer='ema'), r'ExponentialMovingAverage, takes an FFT'),
        (lambda: vminet(resample='window'), r"resample='window'.*dynamic=False"),
    ],
)
def test_sizes_that_a_graph_cannot_hold_are_refused_at_once(model, reason, monkeypatch):
    monkeypatch.setattr(torch.export, 'export', None)  # not even tried
    with pytest.raises(ValueError, match=reason):
        export_program(model())


class _TwoSizes(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[2] == 256 else x


def test_guards_on_the_size_are_found():
    with pytest.raises(ValueError, match=r'_TwoSizes cannot be exported for pictures'):
        export_program(_TwoSizes(), torch.randn(1, 3, 256, 64))


def test_ending():
    with pytest.raises(ValueError, match=r'does not end in \.pt2'):
        save_program(None, 'model.onnx')
