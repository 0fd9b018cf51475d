"""Kernels that fail or differ on a device are not used there, and it is said why."""

import errno
import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from mmssm.ops import dispatch, gpu, trial, verdicts

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


@pytest.fixture(autouse=True)
def no_file_of_this_machine(monkeypatch, tmp_path):
    """Verdicts go to a file of the test."""
    monkeypatch.setattr(verdicts, 'path', lambda: tmp_path / 'cache' / verdicts.FILE)
    monkeypatch.setattr(verdicts, 'key', lambda device: f'key of {device}')


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


@pytest.mark.parametrize('verdict', [None, 'bad'])
def test_one_look_is_enough_where_a_try_went_well(gpu_found, monkeypatch, verdict):
    class Number(OnGPU):
        dtype = torch.bfloat16

    class Label(OnGPU):
        dtype = torch.int64

    class Elsewhere(Number):
        device = torch.device('cuda', 1)

    monkeypatch.setattr(gpu, 'interpreted', lambda: False)
    monkeypatch.setattr(trial, 'failure', lambda *args: verdict)
    kernels = trial.kernels('blur', square, square, make)
    assert not kernels.settled(Number())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        kernels.why_not(Number())
    assert kernels.settled(Number(), None, Number()) is (verdict is None)
    assert not kernels.settled(Number(), Label())
    assert not kernels.settled(Number(), Elsewhere())
    assert not kernels.settled(Elsewhere())


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

    def fresh():
        return trial.kernels('blur', exact_convolution, convolution, images)

    kernels = fresh()

    def first_call(x):
        assert kernels.why_not(OnGPU()) is None
        return x.sin()

    x = torch.ones(3, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16), torch.device('meta'):
        checkpoint(first_call, x, use_reentrant=False).sum().backward()
    with torch.inference_mode():
        assert fresh().why_not(OnGPU()) is None


def test_tensors_that_stand_for_others_are_not_tried():
    with FakeTensorMode():
        assert trial._is_recorded(torch.ones(2))


def test_maps_are_tried_in_bfloat16_too():
    seen = []

    def make(draw):
        return draw(3, 2, low=True), draw(2)

    def run(x, scale):
        seen.append((x.dtype, scale.dtype))
        return x.float() * scale

    assert trial.failure(run, run, make, torch.device('cpu')) is None
    assert set(seen) == {
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    }

    def wrong_in_bfloat16(x, scale):
        return run(x, scale) * (1.5 if x.dtype == torch.bfloat16 else 1)

    found = trial.failure(wrong_in_bfloat16, run, make, torch.device('cpu'))
    assert 'wrong by' in found


def raising(error):
    def run(x, factor):
        raise error

    return run


def wrapped_in_another():
    error = RuntimeError('compilation failed')
    error.__cause__ = OSError(errno.ENOSPC, 'No space left on device')
    return error


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (torch.cuda.OutOfMemoryError('tried 2 GiB'), 'ran out of memory'),
        (RuntimeError('CUDA error: out of memory'), 'ran out of memory'),
        (MemoryError(), 'ran out of memory'),
        (OSError(errno.ENOSPC, 'No space left on device'), 'could not write'),
        (PermissionError(errno.EACCES, 'Permission denied'), 'could not write'),
        (wrapped_in_another(), 'could not write'),
        (RuntimeError('Failed to find C compiler.'), 'no way to compile'),
    ],
)
def test_what_is_no_fault_of_the_kernels_is_no_verdict(error, words):
    with pytest.raises(trial.Inconclusive, match=words):
        trial.failure(raising(error), square, make, torch.device('cpu'))


def on_cpu(monkeypatch):
    """Whatever is to be tried on the GPU is tried on the CPU."""
    real = trial.failure

    def failure(run, reference, make, device):
        return real(run, reference, make, torch.device('cpu'))

    monkeypatch.setattr(trial, 'failure', failure)


def test_without_room_the_plain_form_works_and_a_later_try_counts(
    gpu_found, monkeypatch
):
    on_cpu(monkeypatch)
    clock, full = [100.0], [True]
    monkeypatch.setattr(trial.time, 'monotonic', lambda: clock[0])

    def run(x, factor):
        if full[0]:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return square(x, factor)

    kernels = trial.kernels('blur', run, square, make)
    with pytest.warns(UserWarning, match='could not write .* tried again after 60 s'):
        assert 'No space left' in kernels.why_not(OnGPU())
    assert not verdicts.path().exists()
    full[0] = False
    clock[0] += 59
    assert 'No space left' in kernels.why_not(OnGPU())
    clock[0] += 2
    assert kernels.why_not(OnGPU()) is None


def test_nothing_is_tried_inside_a_backward_pass(gpu_found, monkeypatch):
    on_cpu(monkeypatch)
    kernels = trial.kernels('blur', square, square, make)
    found = []

    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            found.append(kernels.why_not(OnGPU()))
            return grad * 2

    x = torch.ones(2, requires_grad=True)
    Looks.apply(x).sum().backward()
    assert 'inside a backward pass' in found[0]
    assert kernels.why_not(OnGPU()) is None
    Looks.apply(x).sum().backward()
    assert found[1] is None


@pytest.mark.parametrize('run', [square, wrong_gradient])
def test_a_verdict_is_kept_for_other_processes(gpu_found, monkeypatch, run):
    on_cpu(monkeypatch)
    sound = run is square

    def verdict(of):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            return trial.kernels('blur', of, square, make).why_not(OnGPU()), caught

    reason, caught = verdict(run)
    assert (reason is None, len(caught)) == (sound, 0 if sound else 1)
    monkeypatch.setattr(trial, 'failure', lambda *args: pytest.fail('tried again'))
    again, caught = verdict(run)
    assert again == reason
    assert len(caught) == (0 if sound else 1)
    assert sound or str(verdicts.path()) in str(caught[0].message)


def test_another_machine_op_or_version_is_tried_anew(gpu_found, monkeypatch):
    tries = []
    monkeypatch.setattr(trial, 'failure', lambda *args: tries.append(args))
    for op in ('blur', 'blur', 'edge'):
        trial.kernels(op, square, square, make).why_not(OnGPU())
    assert len(tries) == 2
    monkeypatch.setattr(verdicts, 'key', lambda device: 'newer driver')
    trial.kernels('blur', square, square, make).why_not(OnGPU())
    assert len(tries) == 3
    assert set(json.loads(verdicts.path().read_text())) == {
        'key of cuda:0',
        'newer driver',
    }


@pytest.mark.parametrize('text', ['', '[]', '{"key of cuda:0": 3}', '{"a":', '\x00'])
def test_a_damaged_file_is_as_none(gpu_found, monkeypatch, text):
    verdicts.path().parent.mkdir()
    verdicts.path().write_text(text)
    monkeypatch.setattr(trial, 'failure', lambda *args: None)
    assert trial.kernels('blur', square, square, make).why_not(OnGPU()) is None
    assert verdicts.find('blur', 'key of cuda:0') == (None,)
    assert [f.name for f in verdicts.path().parent.iterdir()] == [verdicts.FILE]


def test_a_file_that_cannot_be_written_is_no_error(gpu_found, monkeypatch, tmp_path):
    (tmp_path / 'cache').write_text('a file where a folder should be')
    monkeypatch.setattr(trial, 'failure', lambda *args: None)
    assert trial.kernels('blur', square, square, make).why_not(OnGPU()) is None
    assert verdicts.find('blur', 'key of cuda:0') is None


def test_the_file_is_where_triton_keeps_its_kernels(tmp_path):
    code = (
        'from mmssm.ops import verdicts\n'
        'before = verdicts.path()\n'
        'import triton\n'
        'assert before == verdicts.path()\n'
        'print(before.parent)'
    )
    for variable, parent in (
        ('TRITON_CACHE_DIR', tmp_path),
        ('TRITON_HOME', tmp_path / '.triton' / 'cache'),
    ):
        others = {k: v for k, v in os.environ.items() if 'TRITON' not in k}
        run = subprocess.run(
            [sys.executable, '-c', code],
            env=others | {variable: str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert run.stdout.strip() == str(parent)


def test_a_poisoned_device_is_told(gpu_found, monkeypatch):
    on_cpu(monkeypatch)
    bad = raising(RuntimeError('CUDA error: an illegal memory access was encountered'))
    kernels = trial.kernels('state_fusion', bad, square, make)
    with pytest.raises(RuntimeError, match="cuda:0 unusable .*backend='shared_border'"):
        kernels.why_not(OnGPU())
    later = trial.kernels('state_fusion', bad, square, make)
    with pytest.warns(UserWarning, match='illegal memory access'):
        later.why_not(OnGPU())


class OutOfResources(Exception):
    """Triton's, by name."""


def test_too_large_for_the_gpu_names_the_op_and_a_way_out():
    bad = raising(OutOfResources('shared memory, Required: 300000'))
    kernels = trial.kernels('state_fusion', bad, square, make)
    words = (
        r"state_fusion need .* shapes \[\(3, 2\)\]: .*300000; backend='shared_border'"
    )
    with pytest.raises(RuntimeError, match=words):
        kernels.run(torch.ones(3, 2), 2.0)
    bad = trial.kernels('state_fusion', raising(ZeroDivisionError()), square, make)
    with pytest.raises(ZeroDivisionError):
        bad.run(torch.ones(3, 2), 2.0)


def test_kernels_are_imported_when_they_are_called():
    run = trial.imported('colorsys:rgb_to_hls')
    sys.modules.pop('colorsys', None)
    assert run(1.0, 1.0, 1.0)[1] == 1
    assert 'colorsys' in sys.modules
    kernels = trial.kernels('sine', 'torch:sin', torch.sin, make)
    x = torch.ones(2)
    compiled = torch.compile(kernels.run, backend='eager', fullgraph=True)
    assert torch.equal(compiled(x), x.sin())


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
