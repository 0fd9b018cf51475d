"""The token mixer of Spatial-Mamba."""

import copy

import pytest
import torch
from parity import assert_equal_in_double
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode

from mmssm.layers import StructureAwareSSM

SIZES = [(5, 7), (1, 1), (1, 6), (12, 9)]


def layer(channels=20):
    torch.manual_seed(0)
    return StructureAwareSSM(channels)


@pytest.mark.parametrize('size', SIZES)
def test_keeps_the_shape_and_every_parameter_learns(size):
    ssm = layer()
    x = torch.randn(2, 20, *size)
    y = ssm(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    for name, parameter in ssm.named_parameters():
        # with one position there is no previous state for the decay to act on
        if not (size == (1, 1) and name == 'A_log'):
            assert parameter.grad.abs().sum() > 0, name


def test_released_initialisation():
    ssm = layer(64)
    assert ssm.rank == 4
    step = softplus(ssm.dt_proj.bias.detach().double())
    assert step.min() >= 0.001 * (1 - 1e-4)
    assert step.max() <= 0.1 * (1 + 1e-4)
    assert step.log().std().item() == pytest.approx(4.6 / 12**0.5, rel=0.2)
    assert ssm.dt_proj.weight.abs().max() <= 0.5
    assert ssm.x_proj.weight.abs().max() <= 128**-0.5
    assert ssm.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for ones in (ssm.D, ssm.state_fusion.kernels, ssm.state_fusion.alpha):
        assert (ones == 1).all()
    assert (ssm.A_log == 0).all()


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


def test_weights_swapped_in_place_are_seen():
    ssm, other, x = layer(), StructureAwareSSM(20), torch.randn(1, 20, 6, 5)
    with torch.no_grad():
        ssm.eval()(x)
        for mine, theirs in zip(ssm.parameters(), other.parameters(), strict=True):
            mine.data.copy_(theirs.data)
        assert torch.equal(ssm(x), other.eval()(x))


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


@pytest.mark.parametrize(('dtype', 'maps'), [(torch.float32, 17), (torch.bfloat16, 29)])
def test_training_keeps_few_maps(dtype, maps):
    """In maps of the layer's input and its dtype, C channels each; states are wide."""
    ssm, x = layer(64), torch.randn(1, 64, 24, 40).to(dtype).requires_grad_()
    own = {p.untyped_storage().data_ptr() for p in ssm.parameters()}
    kept = {}

    def pack(saved):
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = saved, storage.nbytes()
        return saved

    with (
        torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved),
    ):
        ssm(x)
    weights = sum(p.nbytes for p in ssm.parameters())  # copies of lower precision
    assert sum(size for _, size in kept.values()) <= maps * x.nbytes + weights


class Casts(TorchDispatchMode):
    """Counts casts of tensors that are as large as a map."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].numel() >= self.size:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_few_maps_are_cast_under_autocast():
    ssm, x = layer(16), torch.randn(1, 16, 48, 40, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16), Casts(x.numel()) as c:
        ssm(x)
    # on a CPU the scan, the observation and the gate read copies in float32
    assert c.count <= 7
