"""A first try of an op's kernels on a GPU, before they are trusted there.

Drivers, compilers and devices differ.  So the first eager call on a device runs the
kernels on a small input, with gradients, beside the form in plain torch: in float32,
and with the op's maps in bfloat16.  If they fail, or the results differ, plain torch
does the work on that device and a warning says why.  `verdicts` keeps the outcome for
later processes.

Running out of memory or disk tells nothing about the kernels: plain torch does the work
and they are tried again later.  Nothing is tried inside a backward pass, whose thread
the trial's own gradients would wait for, nor while a graph is recorded, which takes the
kernels on trust.
"""

import errno
import subprocess
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mmssm.ops import dispatch, gpu, verdicts
from mmssm.ops.dispatch import Implementation

LIMIT = 1e-2  # of the largest value: TF32 in the plain form passes, a mistake does not
RETRY = 60.0  # seconds until a try that told nothing is repeated
NO_ROOM = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
}
POISON = ('illegal memory access', 'misaligned address', 'device-side assert')


class Inconclusive(Exception):
    """A try that says nothing about the kernels."""


class Draw:
    """`torch.randn` on a device, the same numbers everywhere.

    What is drawn with `low=True` is in the dtype `low`: maps that are bfloat16 under
    autocast.
    """

    def __init__(self, device: torch.device, low: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._device = device
        self._low = low
        self.has_low = False

    def __call__(self, *size: int, low: bool = False) -> Tensor:
        drawn = torch.randn(
            size, generator=self._generator, dtype=torch.float32, device='cpu'
        )
        self.has_low |= low
        return drawn.to(self._device, self._low if low else torch.float32)


def kernels(
    op: str,
    run: str | Callable[..., Tensor],
    reference: Callable[..., Tensor],
    make: Callable[[Draw], tuple],
) -> Implementation:
    """The implementation 'triton' of an op, to be tried on each device first.

    run, reference: take the same arguments; run may be 'MODULE:FUNCTION', imported when
    it is needed.  make: called with a `Draw`, gives arguments, tensors first: such as
    the op will meet, 64 channels or more and a map of 24 x 40.
    """
    if isinstance(run, str):
        run = imported(run)
    tried: dict[torch.device, str | None] = {}
    trusted: set[torch.device] = set()
    postponed: dict[torch.device, tuple[float, str]] = {}

    def why_not(*inputs: Tensor | None) -> str | None:
        reason = gpu.why_not(*inputs)
        first = next(t for t in inputs if t is not None)
        device = first.device
        if reason is not None or device.type != 'cuda':
            return reason
        if device in tried or _is_recorded(first):
            return tried.get(device)
        until, reason = postponed.get(device, (0.0, ''))
        if time.monotonic() < until:
            return reason
        return first_try(device)

    def first_try(device: torch.device) -> str | None:
        key = verdicts.key(device)
        known = verdicts.find(op, key)
        if known is None and torch._C._current_graph_task_id() != -1:
            return 'they were not tried yet, and are not inside a backward pass'
        if known is not None:
            (verdict,) = known
        else:
            try:
                # its own thread has no autocast, hook or mode of the caller
                with ThreadPoolExecutor(1) as pool:
                    verdict = pool.submit(
                        failure, run, reference, make, device
                    ).result()
            except Inconclusive as error:
                postponed[device] = time.monotonic() + RETRY, str(error)
                _warn(op, device, f'{error}; they are tried again after {RETRY:.0f} s')
                return str(error)
            verdicts.keep(op, key, verdict)
        tried[device] = verdict
        if verdict is None and not gpu.interpreted():
            trusted.add(device)
        if verdict is not None and known is None and _is_poison(verdict):
            raise RuntimeError(
                f'the Triton kernels of {op} left {device} unusable for this process: '
                f'{verdict}.  Start again with backend={_others(op)}; '
                f'{verdicts.path()} keeps this, if it can be written'
            )
        if verdict is not None:
            where = '' if known is None else f' (kept in {verdicts.path()})'
            _warn(op, device, verdict + where)
        return verdict

    def settled(*inputs: Tensor | None) -> bool:
        device = inputs[0].device
        if device not in trusted:
            return False
        for tensor in inputs:
            if tensor is None:
                continue
            if tensor.dtype not in gpu.KNOWN or tensor.device != device:
                return False
        return True

    return Implementation(
        'triton', named(op, run), gpu.requires, why_not, gpu.suits, settled
    )


def imported(name: str) -> Callable[..., Any]:
    """The function 'MODULE:FUNCTION', imported when it is called.

    torch.compile traces an import statement, and no call that does the same.
    """
    module, function = name.split(':')
    scope: dict[str, Any] = {}
    exec(
        f'def run(*inputs):\n'
        f'    from {module} import {function}\n'
        f'    return {function}(*inputs)\n',
        scope,
    )
    return scope['run']


def named(op: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`run`, with an error that says what to do where a GPU is too small for it."""

    @wraps(run)
    def with_advice(*inputs: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return run(*inputs)
        try:
            return run(*inputs)
        except Exception as error:
            if type(error).__name__ != 'OutOfResources':  # Triton's, not imported here
                raise
            shapes = [tuple(t.shape) for t in inputs if isinstance(t, Tensor)]
            raise RuntimeError(
                f'the Triton kernels of {op} need more than the GPU has on inputs of '
                f'shapes {shapes}: {error}; backend={_others(op)} does without'
            ) from error

    return with_advice


def failure(
    run: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    make: Callable[[Draw], tuple],
    device: torch.device,
) -> str | None:
    """What is wrong with `run` on the device, or None.

    Raises Inconclusive where that cannot be told.
    """
    for low in (torch.float32, torch.bfloat16):
        draw = Draw(device, low)
        arguments = make(draw)
        if low == torch.bfloat16 and not draw.has_low:
            break
        try:
            found = _with_gradients(run, arguments)
        except Exception as error:  # noqa: BLE001 (compilers raise what they like)
            _raise_if_inconclusive(error)
            return f'a first try failed with {type(error).__name__}: {error}'
        try:
            expected = _with_gradients(reference, arguments)
            errors = [_error(*pair) for pair in zip(found, expected, strict=True)]
        except Exception as error:
            _raise_if_inconclusive(error)
            if _is_poison(str(error)):  # kernels fail later than they are called
                return f'a first try failed with {type(error).__name__}: {error}'
            raise
        worst = next((e for e in errors if not e <= LIMIT), None)
        if worst is not None:
            return f'in a first try they were wrong by {worst:.1e} of the result'
    return None


def _error(actual: Tensor, exact: Tensor) -> float:
    """Of the largest value."""
    dtype = torch.complex64 if exact.is_complex() else torch.float32
    actual, exact = actual.to(dtype), exact.to(dtype)
    return ((actual - exact).abs().max() / exact.abs().max()).item()


def _with_gradients(run: Callable[..., Tensor], arguments: tuple) -> list[Tensor]:
    """The result and the gradient of each tensor."""
    leaves: list[Any] = [
        a.detach().requires_grad_() if isinstance(a, Tensor) else a for a in arguments
    ]
    result = run(*leaves)
    tensors = [a for a in leaves if isinstance(a, Tensor)]
    return [result, *torch.autograd.grad(result.square().sum(), tensors)]


def _raise_if_inconclusive(error: BaseException) -> None:
    """Raise Inconclusive if the error, or what it came from, is about the machine."""
    seen: BaseException | None = error
    while seen is not None:
        words = f'{type(seen).__name__}: {seen}'
        if isinstance(seen, (MemoryError, torch.cuda.OutOfMemoryError)) or (
            'out of memory' in str(seen)
        ):
            raise Inconclusive(f'a first try ran out of memory ({words})') from error
        if isinstance(seen, OSError) and seen.errno in NO_ROOM:
            raise Inconclusive(f'a first try could not write ({words})') from error
        if isinstance(seen, (ImportError, FileNotFoundError)) or (
            isinstance(seen, subprocess.SubprocessError) or 'C compiler' in str(seen)
        ):
            raise Inconclusive(
                f'a first try found no way to compile ({words}); Triton needs a C '
                'compiler and the headers of Python'
            ) from error
        seen = seen.__cause__ or seen.__context__


def _is_poison(words: str) -> bool:
    """Whether nothing runs on the device in this process any more."""
    return any(sign in words for sign in POISON)


def _others(op: str) -> str:
    names = [i.name for i in dispatch.registered().get(op, ()) if i.name != 'triton']
    return ' or '.join(map(repr, names)) or "another than 'triton'"


def _warn(op: str, device: torch.device, reason: str) -> None:
    warnings.warn(
        f'the Triton kernels of {op} are not used on {device}: {reason}', stacklevel=4
    )


def _is_recorded(tensor: Tensor) -> bool:
    """Whether what runs now goes into a graph, where nothing can be tried."""
    if torch.compiler.is_compiling() or type(tensor) not in (Tensor, Parameter):
        return True
    return torch.cuda.is_current_stream_capturing()
