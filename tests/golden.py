"""Weights and inputs by formula, so that stored outputs need no stored weights.

The outputs in tests/data come from the official implementations, computed in float64
with these weights and stored in float32.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / 'data'
UINT32 = np.uint64(0xFFFFFFFF)


def noise(name: str, count: int) -> np.ndarray:
    """Hash noise in [-1, 1): FNV-1a of the name, then an integer finaliser."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 % 2**32
    x = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B1) + np.uint64(seed)
    x &= UINT32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x ^= x >> np.uint64(shift)
        x = x * np.uint64(factor) & UINT32
    return x / 2**31 - 1


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Value of an entry of a state dict under its official name."""
    last = name.rsplit('.', 1)[-1]
    count = math.prod(shape)
    if last == 'num_batches_tracked':
        return torch.zeros(shape, dtype=torch.int64)
    scale = {
        'running_var': (1, 0.5),
        'running_mean': (0, 0.1),
        'A_logs': (0, 0.5),
        'dt_projs_bias': (-2.5, 1.5),
        'Ds': (1, 0.2),
        'alpha': (1, 0.3),
        'stack': (1, 0.3),
    }
    if last in scale:
        mean, spread = scale[last]
    elif name.endswith('.g.bn.weight'):
        mean, spread = 0.2, 0.1
    elif last.startswith('kernel_3'):
        mean, spread = 0.1, 0.3
    elif len(shape) == 1:
        mean, spread = (1, 0.2) if last == 'weight' else (0, 0.1)
    else:
        mean, spread = 0, math.sqrt(3 / math.prod(shape[1:]))
    values = mean + spread * noise(name, count)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def image(*shape: int) -> Tensor:
    """A noisy ramp of shape (B, C, H, W)."""
    name = 'input:' + 'x'.join(map(str, shape))
    b, c, h, w = np.ogrid[tuple(slice(n) for n in shape)]
    rows = h / max(shape[2] - 1, 1) - 0.5
    columns = w / max(shape[3] - 1, 1) - 0.5
    values = 1.2 * noise(name, math.prod(shape)).reshape(shape)
    values = values + (rows * (1 + 0.5 * b) + 0.5 * columns * (c - 1))
    return torch.from_numpy(values.astype(np.float32))


def cotangent(tensor: Tensor, name: str) -> Tensor:
    """What a stored gradient multiplied the output `tensor` with."""
    shape = tuple(tensor.shape)
    full = f'{name}:' + 'x'.join(map(str, shape))
    values = noise(full, math.prod(shape)).astype(np.float32).reshape(shape)
    return torch.from_numpy(values).to(tensor.dtype)


def load(name: str) -> dict[str, Tensor]:
    """All arrays of tests/data/<name>.npz."""
    with np.load(DATA / f'{name}.npz') as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
