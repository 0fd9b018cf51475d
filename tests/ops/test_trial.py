"""Kernels that fail or differ on a device are not used there, and it is said why."""

import warnings

import pytest
import torch

from mmssm.ops import dispatch, gpu, trial

CUDA = torch.device('cuda', 0)


def square(x, factor):
    return factor * x**2


def make(randn):
    return randn(3, 2), 2.0


def broken(x, factor):
    raise RuntimeError('PTX of another planet')


def wrong_gradient(x, factor):
    y = square(x, factor)
    return 2 * y - y.detach()


def not_a_number(x, factor):
    return square(x, factor) * float('nan')


@pytest.mark.parametrize(
    ('run', 'words'),
    [
        (square, None),
        (broken, 'a first try failed with RuntimeError: PTX of another planet'),
        (wrong_gradient, 'wrong by 1.0e'),
        (not_a_number, 'wrong by nan'),
    ],
)
def test_failure_is_found(run, words):
    with torch.inference_mode():
        found = trial.failure(run, square, make, torch.device('cpu'))
    assert found is None if words is None else words in found


def test_trial_draws_no_global_random_numbers():
    before = torch.get_rng_state()
    trial.failure(square, square, make, torch.device('cpu'))
    assert torch.equal(torch.get_rng_state(), before)


class OnGPU:
    """Stands for a tensor on a GPU."""

    device = CUDA


@pytest.fixture
def gpu_found(monkeypatch):
    monkeypatch.setattr(gpu, 'why_not', lambda *_: None)
    monkeypatch.setattr(trial, '_is_recorded', lambda: False)


def test_a_device_is_tried_once_and_warned_of_once(gpu_found, monkeypatch):
    tries = []
    monkeypatch.setattr(trial, 'failure', lambda *args: tries.append(args) or 'bad')
    kernels = trial.kernels('blur', broken, square, make)
    with pytest.warns(UserWarning, match='kernels of blur are not used on cuda:0: bad'):
        assert kernels.why_not(OnGPU()) == 'bad'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert kernels.why_not(OnGPU()) == 'bad'
    assert tries == [(broken, square, make, CUDA)]


def test_nothing_is_tried_while_a_graph_is_recorded(gpu_found, monkeypatch):
    monkeypatch.setattr(trial, 'failure', lambda *args: pytest.fail('tried'))
    monkeypatch.setattr(trial, '_is_recorded', lambda: True)
    assert trial.kernels('blur', broken, square, make).why_not(OnGPU()) is None


@pytest.mark.parametrize(
    'op', ['selective_scan', 'state_fusion', 'observe', 'ssm2d_kernel']
)
def test_every_op_has_a_trial_that_its_torch_form_passes(op, monkeypatch):
    seen = {}

    def failure(run, reference, make, device):
        seen.update(reference=reference, make=make)

    monkeypatch.setattr(trial, 'failure', failure)
    first, *_ = dispatch.registered()[op]
    monkeypatch.setattr(gpu, 'why_not', lambda *_: None)
    monkeypatch.setattr(trial, '_is_recorded', lambda: False)
    other = torch.device('cuda', 7)  # not tried by any other test
    tensor = OnGPU()
    tensor.device = other
    first.why_not(tensor)
    monkeypatch.undo()
    reference, make = seen['reference'], seen['make']
    assert trial.failure(reference, reference, make, torch.device('cpu')) is None
