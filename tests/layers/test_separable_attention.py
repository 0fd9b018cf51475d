"""The token mixer of VMINet."""

import copy

import pytest
import torch
from parity import DOUBLE, assert_equal_in_double, relative_error

from mmssm.layers import SeparableAttention
from mmssm.layers.separable_attention import RESAMPLE
from mmssm.ops import separable_attention

SIZES = [(7, 9), (14, 14), (3, 4), (1, 1), (1, 30)]


def layer(resample='bicubic', grid=(7, 9)):
    torch.manual_seed(0)
    return SeparableAttention(6, 2, grid, resample)


@pytest.mark.parametrize('resample', RESAMPLE)
@pytest.mark.parametrize('size', SIZES)
def test_every_size_passes_and_every_parameter_learns(resample, size):
    attention = layer(resample)
    y = attention(torch.randn(2, 6, *size))
    assert y.shape == (2, 12, *size)
    y.square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize('resample', [r for r in RESAMPLE if r != 'mean'])
def test_trained_size_is_bit_identical_whatever_other_sizes_do(resample):
    attention, u = layer(resample), torch.randn(2, 6, 7, 9)
    q, k = attention.query(u), attention.key(u)
    expected = separable_attention(q, k, attention.position, *attention.mix)
    assert torch.equal(attention(u), expected)


def test_mean_does_not_see_where_things_are():
    u = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    for resample, same in (('mean', True), ('bicubic', False)):
        attention = layer(resample).double()
        turned = attention(u.flip(2, 3)).flip(2, 3)
        assert (relative_error(turned, attention(u)) <= DOUBLE) is same


@pytest.mark.parametrize(
    ('resample', 'same'), [('window', True), ('bicubic', False), ('mean', False)]
)
def test_windows_do_not_see_the_padding_beyond(resample, same):
    attention = layer(resample).double()
    u = torch.randn(1, 6, 7, 9, dtype=torch.float64)
    padded = torch.nn.functional.pad(u, (0, 9, 0, 7))
    inside = attention(padded)[..., :7, :9]
    assert (relative_error(inside, attention(u)) <= DOUBLE) is same


def test_released_initialisation():
    attention = SeparableAttention(48, 2, (56, 56))
    assert attention.position.std().item() == pytest.approx(0.02, rel=0.1)
    assert attention.mix.tolist() == [1, 1]
    bound = 48**-0.5
    for conv in (attention.query, attention.key):
        for values in (conv.weight, conv.bias):
            assert values.abs().max() <= bound
            assert values.abs().max() > 0.9 * bound


@pytest.mark.parametrize('resample', RESAMPLE)
def test_nothing_is_kept_from_one_call_to_the_next(resample):
    attention, u = layer(resample), torch.randn(1, 6, 10, 12)
    with torch.inference_mode():
        before = attention.eval()(u)
    attention.train()(u).square().sum().backward()
    torch.optim.SGD(attention.parameters(), lr=0.1).step()
    attention.position.data.mul_(-2)  # as an average of weights is swapped in
    with torch.no_grad():
        after = attention.eval()(u)
        fresh = layer(resample)
        fresh.load_state_dict(attention.state_dict())
        assert torch.equal(after, fresh(u))
        assert torch.equal(after, copy.deepcopy(attention)(u))
    assert not torch.equal(before, after)


def test_memory_layout_does_not_matter():
    attention = layer().double()
    u = torch.randn(2, 6, 12, 5, dtype=torch.float64)
    last = u.contiguous(memory_format=torch.channels_last)
    assert_equal_in_double(attention(last), attention(u))


@pytest.mark.parametrize('resample', RESAMPLE)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_close_and_finite(resample, dtype):
    attention, u = layer(resample), torch.randn(2, 6, 10, 12)
    expected = attention(u)
    with torch.autocast('cpu', dtype=dtype):
        y = attention(u)
    assert y.dtype == dtype
    error = (y.float() - expected).abs().max() / expected.abs().max()
    assert error < 8 * torch.finfo(dtype).eps


def test_pure_low_precision_module_runs():
    y = layer().to(torch.bfloat16)(torch.randn(1, 6, 4, 5, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def test_unknown_resample_is_named():
    with pytest.raises(ValueError, match="resample is 'tile'; expected one of"):
        layer('tile')
