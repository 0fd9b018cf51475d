"""ONNX files: every family, run by onnxruntime beside torch."""

import pytest
from export.networks import FAMILIES, small

from mmssm.export import compare_onnx, export_onnx
from mmssm.export.refusal import PACKAGES

for package in PACKAGES:
    pytest.importorskip(package, reason=f'ONNX files need {package}')
SIZES = [(64, 64), (33, 71), (97, 130)]  # a map of the training grid; odd; large


@pytest.mark.parametrize('family', FAMILIES)
def test_one_file_gives_what_torch_gives_at_every_size(family, tmp_path):
    model, path = small(family), tmp_path / 'model.onnx'
    export_onnx(model, path)
    found = compare_onnx(path, model, SIZES)
    assert [one.size for one in found] == SIZES
    assert all(one.holds for one in found), found


@pytest.mark.parametrize('family', ['spatial_mamba', 'ssm2d_host', 'vmamba'])
def test_half_precision(family, tmp_path):
    model, path = small(family).half(), tmp_path / 'model.onnx'
    export_onnx(model, path)
    found = compare_onnx(path, model, SIZES)
    assert all(one.holds for one in found), found
