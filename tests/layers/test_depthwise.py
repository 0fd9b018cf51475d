"""A block computes the convolution that stands in it, of whatever kind it is."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_equal_in_double
from torch import nn

from mmssm.layers import depthwise as module
from mmssm.layers.depthwise import depthwise

KINDS = {
    'plain': {'padding': 1},
    'without bias': {'padding': 1, 'bias': False},
    'dilated': {'padding': 2, 'dilation': 2},
    'circular': {'padding': 1, 'padding_mode': 'circular'},
    'large': {'kernel_size': 5, 'padding': 2},
    'same': {'padding': 'same'},
    'dense': {'padding': 1, 'groups': 1},
}


@pytest.fixture
def fast(monkeypatch):
    """What the op was called with."""
    calls = []

    def spy(*inputs, **options):
        calls.append(inputs)
        return plain(*inputs, **options)

    plain = module.depthwise_conv
    monkeypatch.setattr(module, 'depthwise_conv', spy)
    return calls


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('form', [{}, {'activation': 'silu'}, {'residual': True}])
def test_any_convolution_is_itself(fast, kind, form):
    options = {'kernel_size': 3, 'groups': 4, **KINDS[kind]}
    conv = nn.Conv2d(4, 4, **options).double()
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    y = conv(x)
    y = F.silu(y) if form.get('activation') else y
    assert_equal_in_double(
        depthwise(conv, x, **form), x + y if form.get('residual') else y
    )
    assert len(fast) == (kind in ('plain', 'without bias'))


@pytest.mark.parametrize('options', [{'stride': 2, 'padding': 1}, {'padding': 0}])
def test_a_convolution_that_does_not_keep_the_shape_is_not_replaced(options):
    conv = nn.Conv2d(4, 4, 3, groups=4, **options)
    x = torch.randn(2, 4, 5, 7)
    assert depthwise(conv, x).shape == conv(x).shape != x.shape
