"""Fused backbones compute the same, and only the copy is fused."""

import copy
import subprocess
import sys

import pytest
import torch
from parity import assert_equal_in_double, relative_error
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

import mmssm
from mmssm.backbones import MILA, SpatialMamba, VMINet
from mmssm.export.fuse import fuse_for_inference

BACKBONES = {
    'MILA': (MILA, {'channels': 16, 'depths': (1, 1, 2, 1), 'heads': 1}),
    'SpatialMamba': (SpatialMamba, {'channels': 16, 'depths': (1, 1, 2, 1)}),
    'VMINet': (VMINet, {'channels': 16, 'depths': (1, 2, 2, 1), 'expand': 2}),
}


@pytest.fixture(params=BACKBONES)
def backbone(request):
    """With batch norms as after training: no statistic or gain is 0 or 1."""
    torch.manual_seed(0)
    make, arch = BACKBONES[request.param]
    model = make(arch)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.2, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.3, 2)
    return model


@pytest.mark.parametrize('size', [(64, 64), (67, 49), (5, 90)])
def test_fused_equals_evaluation(backbone, size):
    x = torch.randn(2, 3, *size)
    fused = mmssm.fuse_for_inference(backbone)
    with torch.no_grad():
        for y, expected in zip(fused(x), backbone.eval()(x), strict=True):
            assert relative_error(y, expected) < 1e-5


def test_fused_equals_evaluation_in_double(backbone):
    backbone.double().eval()
    x = torch.randn(1, 3, 40, 56, dtype=torch.float64)
    for y, expected in zip(fuse_for_inference(backbone)(x), backbone(x), strict=True):
        assert_equal_in_double(y, expected)


def test_no_batch_norm_is_left(backbone):
    fused = fuse_for_inference(backbone)
    assert not any(isinstance(m, _BatchNorm) for m in fused.modules())
    assert not any(m.training for m in fused.modules())
    assert not any(p.requires_grad for p in fused.parameters())
    assert (fused.channels, fused.strides) == (backbone.channels, backbone.strides)


def test_the_original_stays_as_it_is(backbone):
    backbone.train()
    before = copy.deepcopy(backbone.state_dict())
    fused = fuse_for_inference(backbone)
    assert all(m.training for m in backbone.modules())
    assert all(p.requires_grad for p in backbone.parameters())
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    kept = {p.data_ptr() for p in backbone.parameters()}
    assert kept.isdisjoint(p.data_ptr() for p in fused.parameters())


def test_training_the_original_leaves_the_copy(backbone):
    fused, x = fuse_for_inference(backbone), torch.randn(2, 3, 64, 64)
    before = fused(x)
    sum(y.square().mean() for y in backbone.train()(x)).backward()
    torch.optim.SGD(backbone.parameters(), lr=0.1).step()
    for y, expected in zip(fused(x), before, strict=True):
        assert torch.equal(y, expected)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize(
    'options',
    [
        {'kernel_size': 7, 'groups': 6, 'padding': 3},
        {'kernel_size': 1},
        {'kernel_size': 3, 'stride': 2, 'groups': 2},
    ],
)
def test_every_kind_of_convolution(bias, norm, options):
    pair = nn.Sequential(nn.Conv2d(6, 6, bias=bias, **options), norm(6)).double()
    nn.init.uniform_(pair[1].weight, 0.5, 2)
    nn.init.normal_(pair[1].running_mean)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    assert_equal_in_double(fuse_for_inference(pair)(x), pair.eval()(x))


@pytest.mark.parametrize(
    'pair',
    [
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
        nn.ModuleList([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)]),
    ],
)
def test_what_is_no_pair_is_left_alone(pair):
    fused = fuse_for_inference(pair)
    assert [type(m) for m in fused.modules()] == [type(m) for m in pair.modules()]


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize('place', [0, 1])
def test_hooks_and_parametrisations_are_obeyed(place):
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double().eval()
    pair[1].running_mean.uniform_()
    x = torch.randn(1, 3, 5, 7, dtype=torch.float64)
    pair[place].register_forward_hook(lambda module, args, y: y * 3 + 1)
    assert_equal_in_double(fuse_for_inference(pair)(x), pair(x))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double().eval()
    parametrize.register_parametrization(other[0], 'weight', Doubled())
    assert_equal_in_double(fuse_for_inference(other)(x), other(x))


def test_is_there_without_openmmlab():
    code = (
        'import sys, mmssm; mmssm.fuse_for_inference; '
        "sys.exit(any(m.startswith(('mmengine', 'mmcv')) for m in sys.modules))"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
