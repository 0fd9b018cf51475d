"""ONNX files: every family, run by onnxruntime beside torch."""

import pytest
import torch
from export.networks import FAMILIES, small

from mmssm.export import compare_onnx, export_onnx, refusal

SIZES = [(64, 64), (33, 71), (97, 130)]  # a map of the training grid; odd; large
needs_onnx = pytest.mark.skipif(
    refusal.missing() != [], reason=f'ONNX files need {", ".join(refusal.PACKAGES)}'
)


@needs_onnx
@pytest.mark.parametrize('family', FAMILIES)
def test_one_file_gives_what_torch_gives_at_every_size(family, tmp_path):
    model, path = small(family), tmp_path / 'model.onnx'
    export_onnx(model, path)
    found = compare_onnx(path, model, SIZES)
    assert [one.size for one in found] == SIZES
    assert all(one.holds for one in found), found


@needs_onnx
def test_nothing_is_left_that_does_nothing(tmp_path):
    import onnx

    export_onnx(small('spatial_mamba'), tmp_path / 'model.onnx')
    graph = onnx.load(tmp_path / 'model.onnx').graph
    kinds = {node.op_type for node in graph.node}
    assert kinds.isdisjoint({'CastLike', 'Constant', 'Identity', 'BatchNormalization'})
    used = {name for node in graph.node for name in node.input}
    assert {weight.name for weight in graph.initializer} <= used
    made = [(n.op_type, *n.input, *map(str, n.attribute)) for n in graph.node]
    assert len(set(made)) == len(made)


@needs_onnx
@pytest.mark.parametrize('family', FAMILIES)
def test_half_precision(family, tmp_path):
    model, path = small(family).half(), tmp_path / 'model.onnx'
    export_onnx(model, path)
    found = compare_onnx(path, model, SIZES)
    assert all(one.holds for one in found), found


@needs_onnx
def test_a_file_of_another_model_is_told_apart(tmp_path):
    model, path = small('convnext'), tmp_path / 'model.onnx'
    export_onnx(model, path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert not any(one.holds for one in compare_onnx(path, model, SIZES[:1]))


@needs_onnx
@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'opset': 17}, 'opset is 17; expected one from 18'),
        ({'path': 'model.pt'}, 'does not end in .onnx'),
    ],
)
def test_what_cannot_be_written_is_refused(options, reason, tmp_path):
    name = options.pop('path', 'model.onnx')
    with pytest.raises(ValueError, match=reason):
        export_onnx(small('convnext'), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_precision_without_operators_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'model is in torch\.bfloat16; expected'):
        export_onnx(small('convnext').bfloat16(), tmp_path / 'model.onnx')


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(refusal, 'PACKAGES', ('onnx_that_nobody_has',))
    with pytest.raises(ModuleNotFoundError, match=r'onnx_that_nobody_has.*mmssm\[onnx'):
        export_onnx(small('convnext'), tmp_path / 'model.onnx')
