"""When Triton's kernels can run, told without importing Triton."""

import os
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

OLDEST = (3, 4)  # of Triton; the compiler of 3.3 breaks on the scan
CAPABILITY = (7, 0)  # least of a GPU
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
KNOWN = frozenset(REAL + COMPLEX)


def absence(name: str = 'triton') -> str | None:
    """Why the package of Triton cannot be used, or None."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return "triton is not installed (pip install 'triton>=3.4')"
    found = version(name)
    if found is None:
        return f'{spec.origin} does not tell the version of triton'
    if tuple(map(int, found.split('.')[:2])) < OLDEST:
        oldest = '.'.join(map(str, OLDEST))
        found = '.'.join(found.split('.')[:2])
        return f'triton {found} is too old; {oldest} or newer is needed'
    return None


def version(name: str = 'triton') -> str | None:
    """The version that the package of Triton tells, or None."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).read_text(encoding='utf-8')
    found = re.search(r'^__version__ = [\'"](\d+\.\d+[^\'"]*)', text, re.MULTILINE)
    return None if found is None else found[1]


# Looked up once, and outside of what torch.compile traces.
_ABSENCE = absence()


def requires() -> str | None:
    """Why no kernel can run in this environment, or None."""
    return _ABSENCE


def why_not(*inputs: Tensor | None) -> str | None:
    """Why the kernels cannot take these inputs, or None."""
    tensors = [t for t in inputs if t is not None]
    device = tensors[0].device
    for tensor in tensors:
        if tensor.device != device:
            return f'the inputs are on {device} and on {tensor.device}'
        if tensor.dtype not in KNOWN:
            return f'an input is {tensor.dtype}; floating-point numbers are needed'
    if device.type == 'cuda':
        return _too_simple(device)
    if not interpreted():
        return (
            f'the inputs are on {device}; Triton runs on CUDA, or anywhere with '
            'TRITON_INTERPRET=1'
        )
    return None


def suits(*inputs: Tensor | None) -> bool:
    """Whether the kernels are to be preferred: on a GPU, not by the interpreter."""
    first = next(t for t in inputs if t is not None)
    return first.device.type == 'cuda' and not interpreted()


def interpreted() -> bool:
    """Whether Triton runs its kernels step by step on the CPU."""
    return os.environ.get('TRITON_INTERPRET') == '1'


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _too_simple(device: torch.device) -> str | None:
    if torch.compiler.is_compiling():  # for which the GPU had to be good enough
        return None
    found = _capability(device)
    if found >= CAPABILITY:
        return None
    return f'{device} has compute capability {found}; {CAPABILITY} is the least'
