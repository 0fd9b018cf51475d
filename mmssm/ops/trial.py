"""A first try of an op's kernels on a GPU, before they are trusted there.

Drivers, compilers and devices differ.  So the first eager call on a device runs the
kernels on a small input, with gradients, beside the form in plain torch.  If they fail,
or the results differ, plain torch does the work on that device and a warning says why.
Nothing can be tried while a graph is recorded, which takes the kernels on trust.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mmssm.ops import gpu
from mmssm.ops.dispatch import Implementation

LIMIT = 1e-2  # of the largest value: TF32 in the plain form passes, a mistake does not


def kernels(
    op: str,
    run: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    make: Callable[..., tuple],
) -> Implementation:
    """The implementation 'triton' of an op, to be tried on each device first.

    run, reference: take the same arguments.  make: called with `torch.randn` for the
    device, gives arguments, tensors first.
    """
    tried: dict[torch.device, str | None] = {}

    def why_not(*inputs: Tensor | None) -> str | None:
        reason = gpu.why_not(*inputs)
        first = next(t for t in inputs if t is not None)
        device = first.device
        if reason is not None or device.type != 'cuda':
            return reason
        if device not in tried and not _is_recorded(first):
            # in a thread of its own there is no autocast, hook or mode of the caller
            with ThreadPoolExecutor(1) as pool:
                trial = pool.submit(failure, run, reference, make, device)
                tried[device] = trial.result()
            if tried[device] is not None:
                warnings.warn(
                    f'the Triton kernels of {op} are not used on {device}: '
                    f'{tried[device]}',
                    stacklevel=2,
                )
        return tried.get(device)

    return Implementation('triton', run, gpu.requires, why_not, gpu.suits)


def failure(
    run: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    make: Callable[..., tuple],
    device: torch.device,
) -> str | None:
    """What is wrong with `run` on the device, or None."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> Tensor:
        drawn = torch.randn(
            size, generator=generator, dtype=torch.float32, device='cpu'
        )
        return drawn.to(device)

    arguments = make(randn)
    try:
        found = _with_gradients(run, arguments)
    except Exception as error:  # noqa: BLE001 (compilers raise what they like)
        return f'a first try failed with {type(error).__name__}: {error}'
    expected = _with_gradients(reference, arguments)
    for actual, exact in zip(found, expected, strict=True):
        error = ((actual - exact).abs().max() / exact.abs().max()).item()
        if not error <= LIMIT:
            return f'in a first try they were wrong by {error:.1e} of the result'
    return None


def _with_gradients(run: Callable[..., Tensor], arguments: tuple) -> list[Tensor]:
    """The result and the gradient of each tensor."""
    leaves: list[Any] = [
        a.detach().requires_grad_() if isinstance(a, Tensor) else a for a in arguments
    ]
    result = run(*leaves)
    tensors = [a for a in leaves if isinstance(a, Tensor)]
    return [result, *torch.autograd.grad(result.square().sum(), tensors)]


def _is_recorded(tensor: Tensor) -> bool:
    """Whether what runs now goes into a graph, where nothing can be tried."""
    if torch.compiler.is_compiling() or type(tensor) not in (Tensor, Parameter):
        return True
    return torch.cuda.is_current_stream_capturing()
