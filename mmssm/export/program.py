"""Models as programs of `torch.export`, for pictures of any height and width."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmssm.export.refusal import refuse_sizes
from mmssm.export.standard import apart, standard_form
from mmssm.weights import write_whole

SIZE = (256, 288)


def export_program(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    dynamic: bool = True,
    standard: bool = False,
) -> ExportedProgram:
    """The graph of what the model computes in evaluation mode.

    model: a backbone, or anything else that takes a batch of pictures.
    example: (B, channels, H, W), in the precision and on the device of the model; by
    default one picture of 256 x 288.  The batch of the program is B.
    dynamic: pictures may have any height and width, else those of the example only.
    standard: operators of this package are taken apart into torch's own, so that the
    program runs, slowly, and converts where mmssm is not installed; else the program
    holds them whole, and `import mmssm.ops` comes before it is loaded.

    Raises ValueError for what cannot be exported, and says why, before the graph is
    recorded where that is known.
    """
    if dynamic:
        refuse_sizes(model)
    example = _example(model) if example is None else example
    form = standard_form(model, example, dynamic=dynamic)
    free = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if dynamic else None
    with torch.no_grad(), quiet(), apart() if standard else nullcontext():
        try:
            program = torch.export.export(
                form, (example,), dynamic_shapes=(free,), strict=False
            )
        except Exception as error:  # whatever the model's own code says
            raise ValueError(_why_not(model, error, dynamic)) from error
        # layers that were swapped, and sizes that only this example has, show here
        if dynamic:
            _try_other_size(program, example, model)
    return program


def save_program(program: ExportedProgram, path: str | os.PathLike) -> None:
    """Write a file for `torch.export.load`; it is there whole or not at all."""
    if Path(path).suffix != '.pt2':
        raise ValueError(f'{path} does not end in .pt2, which torch.export.load asks')
    write_whole(path, lambda file: torch.export.save(program, file))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' notes on their own insides."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            yield
        finally:
            logger.setLevel(level)


def _example(model: nn.Module) -> Tensor:
    first = next(model.parameters(), torch.empty(0))
    channels = getattr(model, 'in_channels', 3)
    return torch.randn(1, channels, *SIZE, dtype=first.dtype, device=first.device)


def _try_other_size(
    program: ExportedProgram, example: Tensor, model: nn.Module
) -> None:
    """Raise ValueError where the graph holds for the example's size only."""
    *start, height, width = example.shape
    other = example.new_zeros(*start, height + 33, width + 71)
    try:
        program.module()(other)
    except Exception as error:  # an assertion, or whatever an operator says
        raise ValueError(_why_not(model, error, dynamic=True)) from error


def _why_not(model: nn.Module, error: Exception, dynamic: bool) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    name = type(model).__name__
    if not dynamic:
        return f'{name} cannot be exported: {reason}'
    return (
        f'{name} cannot be exported for pictures of any size: {reason}; export it for '
        'one size (dynamic=False)'
    )
