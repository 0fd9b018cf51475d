"""Models as ONNX files."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssm.export.parity import ALLOWED
from mmssm.export.program import export_program, quiet
from mmssm.export.refusal import refuse_without_packages
from mmssm.export.tidy import tidy
from mmssm.weights import write_whole

OPSET = 20
LARGEST = 2**31 - 1  # bytes of a file of this format


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike,
    example: Tensor | None = None,
    *,
    dynamic: bool = True,
    opset: int = OPSET,
) -> None:
    """Write what the model computes in evaluation mode as an ONNX file.

    The file holds standard operators alone.  Its input is `image`, (B, channels, H, W)
    in the precision of the model; its outputs are `output_0`, `output_1`, …: a
    backbone's maps, or all tensors that the model returns.
    path: ends in .onnx; the file is there whole or not at all.
    opset: of ONNX, from 18.  model, example, dynamic: see `export_program`.

    Raises ValueError for what cannot be exported and for an opset or a path that do
    not fit; ModuleNotFoundError where packages are missing.
    """
    refuse_without_packages()
    if opset < 18:
        raise ValueError(f'opset is {opset}; expected one from 18')
    if Path(path).suffix != '.onnx':
        raise ValueError(f'{path} does not end in .onnx')
    for parameter in model.parameters():
        if parameter.dtype not in ALLOWED:
            raise ValueError(
                f'the model is in {parameter.dtype}; expected float32, or float16 '
                '(model.half()): runtimes have few operators for others'
            )
    program = export_program(model, example, dynamic=dynamic, standard=True)
    count = len(program.graph_signature.user_outputs)
    with quiet():
        try:
            onnx = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=['image'],
                output_names=[f'output_{i}' for i in range(count)],
                verbose=False,
                optimize=False,  # `tidy` takes its place
            )
            tidy(onnx.model)
        except Exception as error:  # whatever the exporter says, over many lines
            raise ValueError(
                f'{type(model).__name__} cannot be written as ONNX: {_cause(error)}'
            ) from error
    content = onnx.model_proto
    if content.ByteSize() > LARGEST:
        raise ValueError(
            f'the file would have {content.ByteSize() / 2**30:.1f} GiB; ONNX holds up '
            'to 2: export a smaller model, or in half precision'
        )
    write_whole(path, content.SerializeToString())


def _cause(error: Exception) -> str:
    """The first line of what the error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
