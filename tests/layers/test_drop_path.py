"""Stochastic depth."""

import pytest
import torch

from mmssm.layers import DropPath


def test_identity_in_eval_and_at_rate_zero():
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(DropPath(0.7).eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)


def test_whole_samples_are_dropped_and_the_mean_stays():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    y = DropPath(0.5)(x)
    samples = y.flatten(1)
    assert (samples == samples[:, :1]).all()
    assert set(samples[:, 0].tolist()) == {0.0, 2.0}
    assert y.mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_bad_rate_is_named(rate):
    with pytest.raises(ValueError, match=f'rate is {rate}; expected'):
        DropPath(rate)
