"""torch.compile captures every backbone whole and gives what eager gives."""

import copy

import pytest
import torch
from parity import assert_equal_in_double
from torch._dynamo.testing import CompileCounter

import mmssm.registry  # noqa: F401 (builds hosts from configs)
from mmssm.backbones import MILA, Mega, SpatialMamba, VMamba, VMINet
from mmssm.hosts import SSM2DHost

ROUNDING = 1e-12  # biases before a batch norm have no gradient but this
SMALL = dict(channels=4, depths=(1, 1))
CONVNEXT = dict(type='mmssm.ConvNeXt', arch=SMALL, out_indices=(0, 1))
SWIN = dict(
    type='mmdet.SwinTransformer',
    embed_dims=4,
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 2, 2),
    window_size=3,
    drop_path_rate=0.0,
)
MEGA = dict(
    channels=(8,) * 4, depths=(1, 1, 1, 1), patch=4, shared=4, expanded=8, hidden=16
)
MAKE = {
    'mila': lambda: MILA(arch=dict(heads=1, **SMALL), out_indices=(0, 1)),
    'spatial_mamba': lambda: SpatialMamba(arch=SMALL, out_indices=(0, 1)),
    'vminet': lambda: VMINet(arch=dict(expand=2, **SMALL), out_indices=(0, 1)),
    'vmamba': lambda: VMamba(arch=dict(expand=2, **SMALL), out_indices=(0, 1)),
    'convnext_ssm2d': lambda: SSM2DHost(CONVNEXT, num_states=2),
    'swin_ssm2d': lambda: SSM2DHost(SWIN, num_states=2),
    'mega': lambda: Mega(arch=MEGA, num_states=2),
}


@pytest.fixture(params=MAKE)
def backbone(request):
    torch._dynamo.reset()
    torch.manual_seed(0)
    return MAKE[request.param]().double()


def image(height=40, width=56):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)


def train_step(model, run):
    """Outputs and gradients."""
    outputs = run(image())
    sum(y.square().sum() for y in outputs).backward()
    return [*outputs, *(p.grad for p in model.parameters())]


def test_training_step_equals_eager(backbone):
    other = copy.deepcopy(backbone)
    compiled = torch.compile(other, fullgraph=True, backend='aot_eager')
    backbone.train()  # mmdet's Swin returns nothing here
    other.train()
    expected = train_step(backbone, backbone)
    for actual, exact in zip(train_step(other, compiled), expected, strict=True):
        if exact.abs().max() < ROUNDING:
            assert actual.abs().max() < ROUNDING
        else:
            assert_equal_in_double(actual, exact)


@pytest.mark.parametrize(
    'backbone', ['mila', 'spatial_mamba', 'vmamba', 'vminet'], indirect=True
)
def test_one_graph_serves_all_sizes(backbone):
    counter = CompileCounter()
    backbone.eval()
    compiled = torch.compile(backbone, fullgraph=True, backend=counter, dynamic=True)
    with torch.no_grad():
        for size in ((40, 56), (64, 48), (51, 83)):
            x = image(*size)
            for actual, expected in zip(compiled(x), backbone(x), strict=True):
                assert_equal_in_double(actual, expected)
    assert counter.frame_count == 1
