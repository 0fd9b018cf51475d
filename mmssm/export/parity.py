"""Exported files beside the model that they come from."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmssm.export.refusal import refuse_without_packages

# largest difference allowed, as a share of the largest value
ALLOWED = {torch.float32: 1e-3, torch.float16: 2e-2}


class Parity(NamedTuple):
    """How far a file is from the model on a picture of one size.

    error: max |file - model| over max |model|, the largest of all outputs.
    """

    size: tuple[int, int]
    error: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.error <= self.allowed


def compare_onnx(
    path: str | os.PathLike,
    model: nn.Module,
    sizes: Sequence[tuple[int, int]],
    *,
    channels: int = 3,
) -> list[Parity]:
    """Run the file by onnxruntime beside the model on random pictures of each size.

    Raises ModuleNotFoundError without onnxruntime.
    """
    return _compare(onnx_runner(path), model, sizes, channels)


def onnx_runner(path: str | os.PathLike) -> Callable[[Tensor], list[Tensor]]:
    """The file as a function of a batch of pictures.

    onnxruntime takes as many threads as torch has.
    Raises ModuleNotFoundError without it.
    """
    refuse_without_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=['CPUExecutionProvider']
    )

    def run(x: Tensor) -> list[Tensor]:
        outputs = session.run(None, {'image': x.cpu().numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return run


def compare_program(
    path: str | os.PathLike,
    model: nn.Module,
    sizes: Sequence[tuple[int, int]],
    *,
    channels: int = 3,
) -> list[Parity]:
    """The same for a file of `torch.export`."""
    return _compare(torch.export.load(path).module(), model, sizes, channels)


def _compare(
    run: Callable[[Tensor], object],
    model: nn.Module,
    sizes: Sequence[tuple[int, int]],
    channels: int,
) -> list[Parity]:
    model.eval()
    like = next(model.parameters())
    found = []
    for size in sizes:
        x = torch.randn(1, channels, *size, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            expected, actual = tensors(model(x)), tensors(run(x))
        pairs = zip(actual, expected, strict=True)
        error = max(_relative(a.cpu(), e.cpu()) for a, e in pairs)
        found.append(Parity(tuple(size), error, ALLOWED[like.dtype]))
    return found


def tensors(outputs: object) -> list[Tensor]:
    """All tensors of nested outputs, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if not isinstance(outputs, Sequence):
        raise ValueError(
            f'the model returns {type(outputs).__name__}; expected tensors, or tuples, '
            'lists or dicts of them'
        )
    return [tensor for part in outputs for tensor in tensors(part)]


def _relative(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float('inf')
    actual, expected = actual.double(), expected.double()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return ((actual - expected).abs().max() / scale).item()
