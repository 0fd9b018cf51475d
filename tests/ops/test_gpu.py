"""Why a kernel cannot run is said in words, and without importing Triton."""

import subprocess
import sys

import pytest
import torch

from mmssm.ops import gpu

FLOATS = torch.zeros(3)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ("__version__ = '3.4.0'", None),
        ('__version__ = "10.0.1+git1"', None),
        ("__version__ = '3.3.1'", 'triton 3.3 is too old; 3.4 or newer is needed'),
        ("__version__ = '2.0.0'", 'triton 2.0 is too old; 3.4 or newer is needed'),
        ('', 'does not tell the version'),
    ],
)
def test_versions(tmp_path, monkeypatch, content, words):
    package = tmp_path / 'some_triton'
    package.mkdir()
    (package / '__init__.py').write_text(f'import nothing\n{content}\n')
    monkeypatch.syspath_prepend(tmp_path)
    reason = gpu.absence('some_triton')
    assert reason is None if words is None else words in reason


def test_a_missing_package():
    assert gpu.absence('no_such_triton').startswith('triton is not installed')
    assert gpu.version('no_such_triton') is None


def test_the_version_is_told(tmp_path, monkeypatch):
    (tmp_path / 'another_triton.py').write_text("__version__ = '3.6.0+git1'")
    monkeypatch.syspath_prepend(tmp_path)
    assert gpu.version('another_triton') == '3.6.0+git1'


@pytest.mark.parametrize(
    ('inputs', 'words'),
    [
        ((FLOATS,), 'the inputs are on cpu; Triton runs on CUDA, or anywhere with TRI'),
        ((FLOATS, None, FLOATS.to('meta')), 'the inputs are on cpu and on meta'),
        ((FLOATS, FLOATS.long()), 'an input is torch.int64; floating-point'),
    ],
)
def test_inputs_that_do_not_fit(monkeypatch, inputs, words):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    assert gpu.why_not(*inputs).startswith(words)
    assert not gpu.suits(*inputs)


def test_the_interpreter_takes_a_cpu(monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    assert gpu.why_not(FLOATS, None) is None
    assert not gpu.suits(FLOATS)


def test_running_the_ops_on_a_cpu_leaves_the_kernels_alone():
    code = (
        'import sys, torch\n'
        'from mmssm.ops import ssm2d, selective_scan, state_fusion\n'
        'x = torch.ones(1, 2, 3)\n'
        'selective_scan(x, x, -torch.ones(2, 1), torch.ones(1, 1, 3))\n'
        'state_fusion(torch.ones(1, 2, 3, 3), torch.ones(3, 2, 1, 3, 3), '
        'torch.ones(3))\n'
        'ours = [name for name in sys.modules if name.startswith("mmssm.")]\n'
        'assert not any(name.endswith(".triton") for name in ours)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
