"""Kernels that fail or differ on a device are not used there, and it is said why."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

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
    monkeypatch.setattr(trial, '_is_recorded', lambda _: False)


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


def test_a_failure_is_remembered_while_a_graph_is_recorded(gpu_found, monkeypatch):
    monkeypatch.setattr(trial, 'failure', lambda *args: 'bad')
    kernels = trial.kernels('blur', broken, square, make)
    with pytest.warns(UserWarning, match='bad'):
        kernels.why_not(OnGPU())
    monkeypatch.setattr(trial, '_is_recorded', lambda _: True)
    assert kernels.why_not(OnGPU()) == 'bad'


def convolution(maps, weight):
    return torch.nn.functional.conv2d(maps, weight)


def exact_convolution(maps, weight):
    with torch.autocast('cpu', enabled=False):
        return convolution(maps, weight)


def test_what_surrounds_the_first_call_does_not_matter(gpu_found, monkeypatch):
    monkeypatch.setattr(trial, 'LIMIT', 1e-5)
    on_cpu = trial.failure

    def failure(run, reference, make, device):
        return on_cpu(run, reference, make, torch.device('cpu'))

    monkeypatch.setattr(trial, 'failure', failure)

    def images(randn):
        return randn(1, 3, 8, 8), randn(4, 3, 3, 3)

    def first_call(x):
        kernels = trial.kernels('blur', exact_convolution, convolution, images)
        assert kernels.why_not(OnGPU()) is None
        return x.sin()

    x = torch.ones(3, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16), torch.device('meta'):
        checkpoint(first_call, x, use_reentrant=False).sum().backward()
    with torch.inference_mode():
        first_call(x)


def test_tensors_that_stand_for_others_are_not_tried():
    with FakeTensorMode():
        assert trial._is_recorded(torch.ones(2))


def test_nothing_is_tried_while_a_graph_is_recorded(gpu_found, monkeypatch):
    monkeypatch.setattr(trial, 'failure', lambda *args: pytest.fail('tried'))
    monkeypatch.setattr(trial, '_is_recorded', lambda _: True)
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
    monkeypatch.setattr(trial, '_is_recorded', lambda _: False)
    other = torch.device('cuda', 7)  # not tried by any other test
    tensor = OnGPU()
    tensor.device = other
    first.why_not(tensor)
    monkeypatch.undo()
    reference, make = seen['reference'], seen['make']
    assert trial.failure(reference, reference, make, torch.device('cpu')) is None
