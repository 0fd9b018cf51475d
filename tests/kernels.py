"""What the tests of Triton's kernels share: a device, and a reason to skip."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch import Tensor

from mmssm.ops import gpu

if gpu.requires() is not None:
    pytest.skip(gpu.requires(), allow_module_level=True)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
if DEVICE == 'cpu' and not gpu.interpreted():
    pytest.skip('no GPU, and TRITON_INTERPRET is not 1', allow_module_level=True)


def kernels_of(op: str) -> ModuleType:
    """The module of the op's kernels; `mmssm.ops` has a function of the op's name."""
    return import_module(f'mmssm.ops.{op}.triton')


def generator_of(seed: int) -> Callable[..., Tensor]:
    """torch.randn in double on the device, from a seed; the same on every device."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> Tensor:
        made = torch.randn(*size, generator=generator, dtype=torch.float64)
        return made.to(DEVICE)

    return randn


def gradients(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Of all inputs, for a cotangent that depends on the shape only."""
    cotangent = generator_of(0)(*result.shape)
    return torch.autograd.grad(result, inputs, cotangent.to(result.dtype))


def double(inputs: list[Tensor]) -> list[Tensor]:
    """Leaves of the same values in double."""
    return [v.detach().double().requires_grad_() for v in inputs]
