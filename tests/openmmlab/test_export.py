"""`mmssm-export`: raw outputs of detectors and segmenters, in files."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from openmmlab.engine import tiny
from parity import assert_equal_in_double

from mmssm import registry  # noqa: F401  builds hosts
from mmssm.export import (
    compare_onnx,
    compare_program,
    export_onnx,
    export_program,
    refusal,
    save_program,
)
from mmssm.hosts import SSM2DHost
from mmssm.openmmlab.any_size import with_free_sizes
from mmssm.openmmlab.cli import export
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.exporting import RawOutputs, exportable, preparation
from mmssm.weights import save_file

pytestmark = pytest.mark.filterwarnings('ignore')
DEMO = (
    Path(__file__)
    .resolve()
    .parents[2]
    .joinpath('configs/demo/mask-rcnn_vminet-demo_fpn_shapes.py')
)
SIZES = [(64, 64), (33, 71), (97, 130)]
needs_onnx = pytest.mark.skipif(
    refusal.missing() != [], reason=f'ONNX files need {", ".join(refusal.PACKAGES)}'
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Configs of a small detector and segmenter with a checkpoint of each."""
    folder = tmp_path_factory.mktemp('tiny')
    found = {}
    for task in ('detection', 'segmentation'):
        config = tiny.write_config(folder, task)
        text = config.read_text().replace('mmssm.SpatialMamba', 'mmssm.VMINet')
        config.write_text(
            text.replace('depths=(1, 1, 1, 1))', 'depths=(1, 1, 1, 1), expand=2)')
        )
        model = build(Config.fromfile(config))
        weights = folder / f'{task}.pth'
        save_file({'meta': {}, 'state_dict': model.state_dict()}, weights)
        found[task] = (str(config), str(weights))
    return found


def build(cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return revert_sync_batchnorm(MODELS.build(cfg.model)).eval()


def mask_rcnn():
    return build(Config.fromfile(DEMO))


@needs_onnx
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_onnx_is_checked_at_three_sizes(trained, task, tmp_path, capsys):
    out = tmp_path / 'model.onnx'
    export([*trained[task], '--out', str(out), '--check'])
    printed = capsys.readouterr().out
    assert printed.count(': equal, largest difference') == 3
    assert 'BGR, minus (127, 127, 127), divided by (60, 60, 60)' in printed
    assert [path.name for path in tmp_path.iterdir()] == ['model.onnx']


def test_program_of_a_backbone_for_one_size(trained, tmp_path, capsys):
    out = tmp_path / 'model.pt2'
    flags = ['--to', 'torch', '--backbone', '--size', '48', '80', '--check']
    export([*trained['detection'], '--out', str(out), *flags])
    assert '48 x 80: equal' in capsys.readouterr().out
    maps = torch.export.load(out).module()(torch.zeros(1, 3, 48, 80))
    assert [tuple(m.shape[2:]) for m in maps] == [(12, 20), (6, 10), (3, 5), (2, 3)]


def test_raw_outputs_are_those_of_the_models(trained):
    x = torch.randn(1, 3, 64, 96)
    segmenter = build(Config.fromfile(trained['segmentation'][0]))
    with torch.no_grad():
        assert torch.equal(exportable(segmenter)(x), segmenter(x, mode='tensor'))
        detector = build(Config.fromfile(trained['detection'][0]))
        scores, boxes = exportable(detector)(x)
        expected_scores, expected_boxes = detector(x, mode='tensor')
        assert all(map(torch.equal, scores, expected_scores))
        assert all(map(torch.equal, boxes, expected_boxes))


def test_two_stages_end_with_the_proposals_raw_maps():
    model = mask_rcnn()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, (scores, boxes) = exportable(model)(x)
        expected = model.extract_feat(x)
        assert all(map(torch.equal, maps, expected))
        assert all(map(torch.equal, scores, model.rpn_head(expected)[0]))
    assert [b.shape[1] for b in boxes] == [4 * s.shape[1] for s in scores]
    assert preparation(model).startswith('RGB, minus (123.675, ')


def swin(package, **options):
    """A Swin with 2-D SSMs that do something, windows of 4 and one shift in a stage."""
    config = dict(type=f'{package}.SwinTransformer', embed_dims=8, window_size=4)
    config |= dict(num_heads=(1, 2), strides=(4, 2), depths=(2, 2), out_indices=(0, 1))
    torch.manual_seed(0)
    network = SSM2DHost({**config, **options}, num_states=2)
    network.eval()
    for name, parameter in network.named_parameters():
        if name.endswith(('gain', 'bias_table')):
            torch.nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('size', [(64, 64), (33, 71), (90, 54), (7, 5)])
def test_windows_of_any_size_are_those_of_the_host(package, size):
    model, x = swin(package).double(), torch.randn(2, 3, *size).double()
    with torch.no_grad():
        for actual, expected in zip(with_free_sizes(model)(x), model(x), strict=True):
            assert_equal_in_double(actual, expected)


@needs_onnx
def test_one_onnx_file_of_a_host_serves_every_size(tmp_path):
    model, path = swin('mmdet', depths=(2, 1)), tmp_path / 'model.onnx'
    export_onnx(with_free_sizes(model), path)
    found = compare_onnx(path, model, SIZES)
    assert [one.size for one in found] == SIZES
    # the file rounds as much as the network does, and cuts kernels at 1e-6
    assert all(one.error < 1e-4 for one in found), found


def test_one_program_of_a_host_serves_every_size(tmp_path):
    model, path = swin('mmseg', depths=(2, 1)), tmp_path / 'model.pt2'
    save_program(export_program(with_free_sizes(model)), path)
    found = compare_program(path, model, SIZES)
    assert all(one.error < 1e-4 for one in found), found


def test_models_without_raw_outputs_are_refused():
    with pytest.raises(UserError, match=r'Linear cannot be exported.*--backbone'):
        exportable(torch.nn.Linear(2, 2))
    model = mask_rcnn()
    assert isinstance(exportable(model), RawOutputs)
    alone = exportable(model, backbone_alone=True)
    assert type(alone) is type(model.backbone)


def test_wrong_ending_is_refused_before_anything_is_read(capsys):
    with pytest.raises(SystemExit, match=r'model\.onnx does not end in \.pt2'):
        export(['no.py', 'no.pth', '--to', 'torch', '--out', 'model.onnx'])
