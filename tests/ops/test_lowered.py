"""Weights that autocast would convert one by one, converted together."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmssm.backbones import MILA, SpatialMamba
from mmssm.ops import linear_of
from mmssm.ops.lowered import lowered, lowered_weights

LOW = torch.bfloat16


def autocast(enabled=True):
    return torch.autocast('cpu', LOW, enabled=enabled)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(5, 7)


def at_hand(weights, ask=None):
    """What is given for each weight while all of them are expected."""
    x = torch.ones(1)
    with autocast(), lowered_weights(weights, x):
        if ask is not None:
            ask()
        return [lowered(w, LOW) for w in weights]


def test_values_are_those_of_autocast(linear):
    weights = list(linear.parameters())
    found = at_hand(weights)
    for low, weight in zip(found, weights, strict=True):
        assert torch.equal(low, weight.to(LOW))
        assert not low.requires_grad
    assert found[0].data_ptr() % 32 == found[1].data_ptr() % 32  # one piece of memory
    assert (
        found[0].untyped_storage().data_ptr() == found[1].untyped_storage().data_ptr()
    )


def test_only_what_is_asked_for_is_expected(linear):
    with autocast(), lowered_weights((), torch.ones(1)) as asked:
        lowered(linear.weight, LOW)
    assert [id(w) for w in asked.values()] == [id(linear.weight)]


def test_a_weight_that_changed_since_is_converted_again(linear):
    def change():
        with torch.no_grad():
            linear.weight.mul_(3)
        linear.bias.data = linear.bias.data + 1

    found = at_hand(list(linear.parameters()), change)
    assert torch.equal(found[0], linear.weight.to(LOW))
    assert torch.equal(found[1], linear.bias.to(LOW))


def test_nothing_is_kept_without_autocast_or_after_an_error(linear):
    x = torch.ones(1)
    with lowered_weights(list(linear.parameters()), x) as asked:
        lowered(linear.weight, LOW)
    assert not asked
    with pytest.raises(KeyError), autocast(), lowered_weights((linear.weight,), x):
        raise KeyError
    with autocast():
        first, second = (lowered(linear.weight, LOW) for _ in range(2))
    assert first.data_ptr() != second.data_ptr()


def test_another_thread_has_its_own(linear):
    with autocast(), lowered_weights((linear.weight,), torch.ones(1)):
        mine = lowered(linear.weight, LOW)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(lowered, linear.weight, LOW).result()
    assert torch.equal(mine, other)
    assert mine.data_ptr() != other.data_ptr()


def test_a_frozen_or_double_weight(linear):
    frozen = nn.Linear(5, 7).requires_grad_(False)
    double = nn.Linear(5, 7).double()
    for weight in (frozen.weight, double.weight):
        (found,) = at_hand([weight])
        assert torch.equal(found, weight.to(LOW))


def test_autocast_leaves_double_alone():
    linear = nn.Linear(5, 7).double()
    x = torch.randn(3, 5, dtype=torch.double)
    with autocast(), lowered_weights(list(linear.parameters()), x):
        (found,) = linear_of(torch.tanh, (x,), linear.weight, linear.bias)
    assert torch.equal(found, linear(x.tanh()))


ARCH = {'channels': 16, 'depths': (1, 2, 1, 1)}


@pytest.mark.parametrize('family', [SpatialMamba, MILA])
def test_a_network_s_passes_are_alike(family):
    """The first knows nothing, the second converts what the first asked for."""
    torch.manual_seed(0)
    model = family(dict(ARCH, heads=(2, 2, 4, 4)) if family is MILA else ARCH)
    x = torch.randn(1, 3, 64, 40)
    found = []
    for _ in range(2):
        model.zero_grad()
        with autocast():
            maps = model.eval()(x)
        sum(y.float().square().mean() for y in maps).backward()
        found.append([*maps, *(p.grad for p in model.parameters())])
        assert model._multiplied
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
    with torch.no_grad(), autocast():
        for y, expected in zip(model(x), maps, strict=True):
            assert torch.equal(y, expected)


def test_conversions_of_a_pass():
    """Of SpatialMamba-T's 18 blocks none converts a weight by itself."""
    model = SpatialMamba({'channels': 16, 'depths': (2, 4, 8, 4)}).eval()
    x = torch.randn(1, 3, 32, 32)

    def conversions():
        cpu = [ProfilerActivity.CPU]
        with torch.no_grad(), autocast(), profile(activities=cpu) as found:
            model(x)
        return sum(event.name == 'aten::_to_copy' for event in found.events())

    # five matrices, two of them with a bias, in each block
    assert conversions() - conversions() == 18 * 7
