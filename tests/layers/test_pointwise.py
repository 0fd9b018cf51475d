"""A 1 x 1 convolution as a product of matrices."""

import pytest
import torch
from torch import nn

from mmssm.layers import pointwise as module
from mmssm.layers.conv_norm_act import ConvNormAct
from mmssm.layers.pointwise import as_product, pointwise


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('size', [(5, 7), (1, 1), (1, 6)])
def test_values_and_gradients(bias, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 1, bias=bias).double()
    x = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    asked = [x, *conv.parameters()]
    found, expected = as_product(conv, x), conv(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert found.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(y, asked, grad) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    'options, single',
    [
        ({}, True),
        ({'kernel_size': 3}, False),
        ({'stride': 2}, False),
        ({'padding': 1}, False),
        ({'groups': 2}, False),
    ],
)
def test_which_convolutions(options, single):
    conv = nn.Conv2d(4, 6, **{'kernel_size': 1, **options})
    assert module._is_single(conv) is single


def test_one_with_a_hook_is_called():
    conv = nn.Conv2d(4, 6, 1)
    conv.register_forward_hook(lambda *_: None)
    assert not module._is_single(conv)
    assert not module._is_single(nn.Linear(4, 6))


def test_on_a_cpu_it_is_the_convolution():
    conv, x = nn.Conv2d(4, 6, 1), torch.randn(1, 4, 3, 5)
    assert torch.equal(pointwise(conv, x), conv(x))


def test_in_a_sequence(monkeypatch):
    layer = ConvNormAct(4, 6, 1, bias=True, norm=nn.BatchNorm2d, act=nn.ReLU())
    x = torch.randn(2, 4, 3, 5)
    expected = nn.Sequential.forward(layer.eval(), x)
    assert torch.equal(layer(x), expected)
    monkeypatch.setattr('mmssm.layers.conv_norm_act.pointwise', as_product)
    torch.testing.assert_close(layer(x), expected)
