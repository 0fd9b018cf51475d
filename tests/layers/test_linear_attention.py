"""The token mixer of MILA."""

import copy

import pytest
import torch
import torch.nn.functional as F
from parity import assert_equal_in_double
from torch import nn

from mmssm.layers import GatedLinearAttention, LinearAttention
from mmssm.ops import attention_matrix

SIZES = [(5, 7), (1, 1), (1, 6), (12, 9)]


def layer(make=GatedLinearAttention, channels=8, heads=2):
    torch.manual_seed(0)
    return make(channels, heads)


@pytest.mark.parametrize('make', [LinearAttention, GatedLinearAttention])
@pytest.mark.parametrize('size', SIZES)
def test_keeps_the_shape_and_every_parameter_learns(make, size):
    mixer, x = layer(make), torch.randn(2, 8, *size)
    y = mixer(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0, name


def test_attention_is_a_matrix_over_positions_and_a_convolution():
    attention = layer(LinearAttention).double()
    nn.init.normal_(attention.query_key.weight)
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    q, k = attention.query_key(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).chunk(2, 1)
    mixing = attention_matrix(q, k, 2)  # (B, heads, L, L)
    mixed = x.reshape(2, 2, 4, 35) @ mixing.mT
    expected = mixed.reshape(x.shape) + attention.local(x)
    assert_equal_in_double(attention(x), expected)


def test_the_gate_closes_what_the_attention_gives():
    mixer, x = layer().double(), torch.randn(1, 8, 4, 5, dtype=torch.float64)
    u = F.silu(mixer.conv(mixer.in_proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
    gate = F.silu(mixer.gate_proj(x.permute(0, 2, 3, 1)))
    product = mixer.attention(u).permute(0, 2, 3, 1) * gate
    expected = mixer.out_proj(product).permute(0, 3, 1, 2)
    assert_equal_in_double(mixer(x), expected)


def test_nothing_is_kept_from_one_size_to_the_next():
    mixer = layer().double()
    maps = [torch.randn(1, 8, *size, dtype=torch.float64) for size in SIZES]
    with torch.no_grad():
        alone = [copy.deepcopy(mixer)(x) for x in maps]
        for x, expected in zip([*maps, *maps], [*alone, *alone], strict=True):
            assert torch.equal(mixer(x), expected)
    names = [name for name, _ in mixer.named_buffers()]
    assert names == []


def test_evaluate_train_and_evaluate_again_sees_the_new_weights():
    mixer, x = layer(), torch.randn(1, 8, 6, 5)
    with torch.inference_mode():
        before = mixer.eval()(x)
    mixer.train()(x).square().sum().backward()
    torch.optim.SGD(mixer.parameters(), lr=1.0).step()
    with torch.no_grad():
        after = mixer.eval()(x)
        fresh = layer()
        fresh.load_state_dict(mixer.state_dict())
        assert torch.equal(after, fresh.eval()(x))
    assert not torch.equal(before, after)


def test_where_things_are_matters():
    attention = layer(LinearAttention).double()
    nn.init.normal_(attention.query_key.weight)
    nn.init.zeros_(attention.local.weight)
    x = torch.randn(1, 8, 6, 5, dtype=torch.float64)
    turned = attention(x.flip(2)).flip(2)
    assert (turned - attention(x)).abs().max() > 1e-3


def test_memory_layout_does_not_matter():
    mixer, x = layer().double(), torch.randn(2, 8, 12, 5, dtype=torch.float64)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_equal_in_double(mixer(last), mixer(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_close_and_finite(dtype):
    mixer, x = layer(), torch.randn(2, 8, 10, 12)
    expected = mixer(x)
    with torch.autocast('cpu', dtype=dtype):
        y = mixer(x)
    y.float().square().sum().backward()
    assert y.dtype == dtype
    error = (y.float() - expected).abs().max() / expected.abs().max()
    assert error < 8 * torch.finfo(dtype).eps
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


def test_pure_low_precision_module_runs():
    y = layer().to(torch.bfloat16)(torch.randn(1, 8, 4, 5, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.parametrize(('channels', 'heads'), [(6, 1), (8, 3), (8, 0)])
def test_channels_and_heads_that_do_not_fit_are_named(channels, heads):
    with pytest.raises(ValueError, match=f'{channels} channels and heads={heads}'):
        layer(channels=channels, heads=heads)
