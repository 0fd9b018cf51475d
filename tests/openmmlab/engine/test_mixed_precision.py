"""Detectors and segmenters train and predict in both half precisions on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from random_samples import RESIZED, batch

from mmssm.openmmlab.engine import mixed_precision
from mmssm.openmmlab.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {
    'mask_rcnn': 'spatial_mamba/mask-rcnn_spatialmamba-t_fpn_1x_coco.py',
    'cascade': 'spatial_mamba/mask-rcnn_spatialmamba-t_fpn_1x_coco.py',
    'retinanet': 'vminet/retinanet_vminet-xs_fpn_1x_coco.py',
    'upernet': 'spatial_mamba/spatialmamba-t_upernet_4xb4-160k_ade20k-512x512.py',
}
# widths that a part has by default
WIDTHS = {
    'RPNHead': dict(feat_channels=256),
    'RetinaHead': dict(feat_channels=256, stacked_convs=1),
    'Shared2FCBBoxHead': dict(in_channels=256, fc_out_channels=1024),
    'FCNMaskHead': dict(in_channels=256, conv_out_channels=256, num_convs=1),
    'UPerHead': dict(channels=512),
    'FCNHead': dict(channels=256),
}
SMALL = {'channels': 8, 'depths': (1, 1, 1, 1)}


@pytest.fixture(autouse=True)
def float32_ops():
    mixed_precision.use_float32_ops()
    mixed_precision.use_float32_ops()  # a second time is as good as once


def read(name):
    """A config whose backbone is small, and everything else as it stands."""
    cfg = Config.fromfile(ROOT / 'configs' / CONFIGS[name])
    backbone = cfg.model.backbone
    arch = dict(SMALL, expand=2) if 'VMINet' in backbone.type else SMALL
    cfg.model.backbone = ConfigDict(type=backbone.type, arch=arch)
    channels = [8, 16, 32, 64]
    if name == 'upernet':
        cfg.model.decode_head.in_channels = channels
        cfg.model.auxiliary_head.in_channels = channels[2]
        cfg.model.data_preprocessor.size = RESIZED
    else:
        cfg.model.neck.in_channels = channels[-len(cfg.model.neck.in_channels) :]
        cfg.model.backbone.out_indices = range(4)[-len(cfg.model.neck.in_channels) :]
    if name == 'cascade':
        cascade(cfg.model)
    narrow(cfg.model)
    return cfg


def narrow(node):
    """Parts of 16 channels: float16 is slow on CPUs that lack it."""
    if isinstance(node, dict) and 'type' in node:
        for key, value in {**node, **WIDTHS.get(node['type'], {})}.items():
            wide = isinstance(value, int) and value in (256, 512, 1024)
            node[key] = 16 if wide else value
    for part in node.values() if isinstance(node, dict) else node:
        if isinstance(part, dict | list):
            narrow(part)


def cascade(model):
    """Two stages in the place of one."""
    head, train = model.roi_head, model.train_cfg.rcnn
    model.type = 'CascadeRCNN'
    for key in ('bbox_head', 'mask_head', 'bbox_roi_extractor'):
        head[key] = (
            [head[key].copy(), head[key].copy()] if 'roi' not in key else head[key]
        )
    for box_head in head.bbox_head:
        box_head.reg_class_agnostic = True
    head.update(type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5])
    model.train_cfg.rcnn = [train, train.copy()]


def build(cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('kind', ['bf16', 'fp16'])
@pytest.mark.parametrize('name', CONFIGS)
def test_training_and_prediction(name, kind):
    cfg = read(name)
    model = build(cfg)
    mixed_precision.enable_amp(cfg, kind)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    data = batch(cfg.default_scope)
    before = [p.clone() for p in model.parameters()]
    taken, scale = 0, None
    for _ in range(20):  # float16 finds its scale first
        losses = model.train().train_step(data, wrapper)
        earlier = scale
        scale = wrapper.state_dict().get('loss_scaler', {}).get('scale')
        taken += scale == earlier
        if taken == 2:
            break
    assert all(torch.as_tensor(v).isfinite().all() for v in losses.values())
    moved = [
        not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)
    ]
    assert sum(moved) > len(moved) / 2
    model.eval()
    with mixed_precision.autocast(kind):
        results = model.test_step(data)
    for result in results:
        if name == 'upernet':
            assert result.seg_logits.data.isfinite().all()
        else:
            assert result.pred_instances.bboxes.dtype == torch.float32


def test_coordinates_are_finer_than_half_precision():
    cfg = read('retinanet')
    model = build(cfg).eval()
    with mixed_precision.autocast('bf16'):
        (result, _) = model.test_step(batch('mmdet'))
    boxes = result.pred_instances.bboxes
    assert len(boxes)
    assert not torch.equal(boxes, boxes.bfloat16().float())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_an_operator_gives_what_it_gives_in_float32(dtype):
    from mmcv.ops import nms, roi_align

    maps = torch.randn(2, 4, 9, 13).to(dtype).requires_grad_()
    wide = maps.detach().float().requires_grad_()
    rois = torch.tensor([[0.0, 0, 0, 8, 6], [1, 2, 1, 12, 8]])
    result = roi_align(maps, rois.to(dtype), (3, 3))
    expected = roi_align(wide, rois, (3, 3))
    assert result.dtype == dtype
    assert torch.equal(result, expected.to(dtype))
    cotangent = torch.randn(expected.shape).to(dtype)
    result.backward(cotangent)
    expected.backward(cotangent.float())
    assert torch.equal(maps.grad, wide.grad.to(dtype))
    assert torch.equal(maps.detach().float(), wide.detach())  # inputs stay
    boxes = torch.tensor([[0.0, 0, 8, 8], [1, 1, 9, 9], [20, 20, 30, 30]]).to(dtype)
    _, kept = nms(boxes, torch.tensor([0.5, 0.9, 0.3]).to(dtype), 0.5)
    assert kept.tolist() == [1, 2]


def test_the_choice_of_the_type():
    assert mixed_precision.choose_dtype('fp16') == torch.float16
    if not torch.cuda.is_available():
        assert mixed_precision.choose_dtype() == torch.bfloat16


def test_what_the_config_says_goes_before_auto():
    cfg = Config(
        dict(optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16', optimizer={}))
    )
    mixed_precision.enable_amp(cfg)
    names = ('Float16OptimWrapper', 'AmpOptimWrapper')
    assert cfg.optim_wrapper.type == names[torch.cuda.is_available()]


def test_another_wrapper_is_refused():
    cfg = Config(dict(optim_wrapper=dict(type='ApexOptimWrapper')))
    with pytest.raises(UserError, match='ApexOptimWrapper'):
        mixed_precision.enable_amp(cfg)


def test_resuming_keeps_the_scale():
    model = torch.nn.Linear(2, 1)

    def wrapper():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return mixed_precision.Float16OptimWrapper(optimizer=optimizer)

    first = wrapper()
    with first.optim_context(model):
        loss = model(torch.full((4, 2), 1e4)).sum() * 1e4
    first.update_params(loss)  # overflows: the scale is halved
    state = first.state_dict()
    second = wrapper()
    second.load_state_dict(state)
    assert second.loss_scaler.get_scale() == first.loss_scaler.get_scale() < 2**16


def test_importing_the_engine_leaves_mmcv_alone():
    code = (
        'import mmcv.ops, mmssm.openmmlab.engine, mmssm.registry\n'
        'from mmcv import _ext\n'
        "assert not hasattr(_ext.roi_align_forward, '_mmssm_float32')"
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
