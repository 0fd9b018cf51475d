"""Recomputed blocks give the same gradients, and batch norms count once."""

import copy

import pytest
import torch
from torch import nn

from mmssm.backbones.recompute import recompute


def block(momentum):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), norm, nn.Dropout(0.5))


@pytest.mark.parametrize('momentum', [0.1, None])
@pytest.mark.parametrize('backwards', [1, 2])
def test_equals_the_plain_block(momentum, backwards):
    results = []
    for run in (recompute, lambda block, x: block(x)):
        module = block(momentum)
        x = torch.randn(2, 4, 6, 5, requires_grad=True)
        y = run(module, x)
        for _ in range(backwards):
            y.square().sum().backward(retain_graph=True)
        grads = [p.grad for p in module.parameters()]
        results.append([y, x.grad, *grads, *module.buffers()])
        assert module[1].momentum == momentum
        assert int(module[1].num_batches_tracked) == 1
    for value, expected in zip(*results, strict=True):
        assert torch.equal(value, expected)


def test_a_norm_in_evaluation_stays_as_it_is():
    module = block(0.1)
    module[1].eval()
    before = copy.deepcopy(module[1].state_dict())
    recompute(module, torch.randn(2, 4, 6, 5)).square().sum().backward()
    after = module[1].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
