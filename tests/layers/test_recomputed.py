"""Modules that are computed together are computed apart where somebody looks inside."""

import pytest
import torch
from parity import assert_equal_in_double
from torch import nn
from torch.nn.utils import parametrize

from mmssm.backbones.spatial_mamba import SpatialMambaBlock
from mmssm.layers import MLP, ChannelNorm, StructureAwareSSM


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def layer(kind):
    torch.manual_seed(0)
    return kind(6).double(), ChannelNorm(6).double()


PARTS = [(MLP, 'fc1'), (MLP, 'fc2'), (StructureAwareSSM, 'in_proj')]
PARTS += [(StructureAwareSSM, 'out_proj')]


@pytest.mark.parametrize('kind', [MLP, StructureAwareSSM])
def test_a_norm_inside_is_the_norm_before(kind):
    module, norm = layer(kind)
    norm.weight.data.uniform_(0.5, 2)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    leaves = [x, *norm.parameters(), *module.parameters()]
    found, expected = module(x, norm), module(norm(x))
    assert_equal_in_double(found, expected)
    both = (torch.autograd.grad(y.square().sum(), leaves) for y in (found, expected))
    for pair in zip(*both, strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.parametrize(('kind', 'name'), PARTS)
def test_hooks_and_parametrisations_of_a_linear_layer_are_obeyed(kind, name):
    module, norm = layer(kind)
    x = torch.randn(1, 6, 3, 5, dtype=torch.float64)
    seen = []
    linear = getattr(module, name)
    with linear.register_forward_hook(lambda *args: seen.append(args[2].shape[-1])):
        hooked = module(x, norm)
    assert seen == [linear.out_features]
    assert_equal_in_double(hooked, module(x, norm))
    expected = linear.weight.detach() * 2
    parametrize.register_parametrization(linear, 'weight', Doubled())
    doubled = module(x, norm)
    parametrize.remove_parametrizations(linear, 'weight', leave_parametrized=True)
    assert torch.equal(linear.weight, expected)
    assert_equal_in_double(doubled, module(x, norm))
    assert not torch.allclose(doubled, hooked)


def test_hooks_of_a_norm_are_obeyed():
    torch.manual_seed(0)
    block = SpatialMambaBlock(4)
    x = torch.randn(1, 4, 3, 5, requires_grad=True)
    expected = block(x)
    seen = []
    for norm in (block.norm1, block.norm2):
        norm.register_forward_hook(lambda *args: seen.append(args[2].shape))
    torch.testing.assert_close(block(x), expected)
    assert seen == [x.shape] * 2


def test_kept_for_a_block():
    """In maps of C channels: the inputs of two convolutions, two norms and the MLP's
    GELU (4 + 4), and six of the inner width 2C."""
    channels, height, width = 64, 16, 20
    block = SpatialMambaBlock(channels)
    x = torch.randn(1, channels, height, width, requires_grad=True)
    x = x.contiguous(memory_format=torch.channels_last)
    parameters = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x)
    maps = sum(s.nbytes() for s in kept.values()) / x.nbytes
    assert 18 <= maps < 19.2
