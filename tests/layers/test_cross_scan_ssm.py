"""The token mixer of VMamba."""

import copy

import pytest
import torch
import torch.nn.functional as F
from parity import assert_equal_in_double

from mmssm.layers import CrossScanSSM
from mmssm.ops import cross_scan

SIZES = [(5, 7), (1, 1), (1, 6), (12, 9)]


def layer(channels=20, **options):
    torch.manual_seed(0)
    return CrossScanSSM(channels, **options)


@pytest.mark.parametrize('options', [{}, {'expand': 2, 'num_states': 3}])
@pytest.mark.parametrize('size', SIZES)
def test_keeps_the_shape_and_every_parameter_learns(size, options):
    ssm = layer(**options)
    x = torch.randn(2, 20, *size)
    y = ssm(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    for name, parameter in ssm.named_parameters():
        # with one position there is no previous state for the decay to act on
        if not (size == (1, 1) and name == 'A_log'):
            assert parameter.grad.reshape(len(parameter), -1).any(1).all(), name


@pytest.mark.parametrize('options', [{}, {'expand': 2, 'num_states': 3}])
def test_is_what_its_equations_say(options):
    ssm = layer(**options).double()
    x = torch.randn(2, 20, 4, 5, dtype=torch.float64)
    inner, count = ssm.D.shape[1], ssm.num_states
    u = torch.einsum('bchw,dc->bdhw', x, ssm.in_proj.weight)
    u = F.silu(F.conv2d(u, ssm.conv.weight, padding=1, groups=inner))
    projected = torch.einsum('bdhw,kcd->bkchw', u, ssm.x_proj)
    step, B, C = projected.split([ssm.rank, count, count], 2)
    delta = torch.einsum('bkrhw,kdr->bkdhw', step, ssm.dt_proj)
    A = -torch.exp(ssm.A_log)
    y = cross_scan(u, delta, A, B, C, ssm.D, ssm.dt_bias, backend='naive')
    norm = ssm.out_norm
    y = F.layer_norm(y.movedim(1, -1), (inner,), norm.weight, norm.bias)
    expected = torch.einsum('bhwd,cd->bchw', y, ssm.out_proj.weight)
    assert_equal_in_double(ssm(x), expected)


def test_released_initialisation():
    ssm = layer(64, expand=2, num_states=3)
    assert ssm.rank == 4
    step = F.softplus(ssm.dt_bias.detach().double())
    assert step.min() >= 0.001 * (1 - 1e-4)
    assert step.max() <= 0.1 * (1 + 1e-4)
    assert step.log().std().item() == pytest.approx(4.6 / 12**0.5, rel=0.2)
    for weight, bound in ((ssm.dt_proj, 0.5), (ssm.x_proj, 128**-0.5)):
        assert 0.99 * bound < weight.abs().max() <= bound
    for linear in (ssm.in_proj, ssm.out_proj):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (ssm.D == 1).all()
    assert torch.equal(ssm.A_log[3, 7], torch.tensor([1.0, 2.0, 3.0]).log())
    assert ssm.conv.bias is None


def test_train_equals_eval():
    ssm, x = layer(), torch.randn(1, 20, 6, 5)
    assert torch.equal(ssm.train()(x), ssm.eval()(x))


def test_evaluate_train_and_evaluate_again_sees_the_new_weights():
    ssm, x = layer(), torch.randn(1, 20, 6, 5)
    with torch.no_grad():
        before = ssm.eval()(x)
    optimizer = torch.optim.SGD(ssm.parameters(), lr=0.1)
    ssm.train()(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = ssm.eval()(x)
        fresh = layer()
        fresh.load_state_dict(ssm.state_dict())
        assert torch.equal(after, fresh.eval()(x))
        assert torch.equal(after, copy.deepcopy(ssm)(x))
    assert not torch.equal(before, after)


def test_memory_layout_does_not_matter():
    ssm = layer().double()
    x = torch.randn(2, 20, 6, 5, dtype=torch.float64)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_equal_in_double(ssm(last), ssm(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_close_and_finite(dtype):
    ssm, x = layer(), 30 * torch.randn(1, 20, 8, 8)
    expected = ssm(x)
    with torch.autocast('cpu', dtype=dtype):
        y = ssm(x)
    assert y.dtype == dtype
    error = (y.float() - expected).abs().max() / expected.abs().max()
    assert error < 8 * torch.finfo(dtype).eps


def test_pure_low_precision_module_runs():
    ssm = layer().to(torch.bfloat16)
    y = ssm(torch.randn(1, 20, 4, 5, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.parametrize('count', [0, -1, 1.5, None])
def test_a_number_of_states_that_is_none_is_named(count):
    with pytest.raises(ValueError, match=f'num_states is {count}; expected an integer'):
        CrossScanSSM(8, num_states=count)
