"""Write a trained model as an ONNX file or a program of torch.export."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssm.export import (
    compare_onnx,
    compare_program,
    export_onnx,
    export_program,
    save_program,
)
from mmssm.export.program import SIZE
from mmssm.export.refusal import refuse_without_packages
from mmssm.openmmlab.cli import add_config
from mmssm.openmmlab.engine.configs import read_config, require
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.exporting import exportable, preparation, refuse_any_size
from mmssm.openmmlab.prediction import trained_model

SIZES = [(224, 224), (193, 321), (320, 256)]  # of --check
ENDINGS = {'onnx': '.onnx', 'torch': '.pt2'}


def main(argv: Sequence[str] | None, name: str) -> int:
    """The command `mmssm-export`; 1 where the file's answers are not the model's."""
    args = _parser(name).parse_args(argv)
    out = args.out or Path(args.config).with_suffix(ENDINGS[args.to]).name
    if Path(out).suffix != ENDINGS[args.to]:
        raise UserError(f'{out} does not end in {ENDINGS[args.to]}')
    if args.to == 'onnx':
        refuse_without_packages()
    cfg = read_config(args.config, args.cfg_options)
    require(cfg)
    whole, _ = trained_model(cfg, args.checkpoint, 'cpu')
    if args.size is None:
        refuse_any_size(whole)
    model = exportable(whole, args.backbone)
    model = model.half() if args.half else model.float()
    example = _example(model, args)
    start = time.perf_counter()
    try:
        error = _write(model, out, example, args)
    except ValueError as reason:
        raise UserError(str(reason)) from reason
    seconds = time.perf_counter() - start
    size = f'{Path(out).stat().st_size / 1e6:.1f} MB'
    print(f'{out}: {size}, {seconds:.0f} s. Input: {preparation(whole)}.')
    return error


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help="weights, or 'official'")
    parser.add_argument('--to', choices=[*ENDINGS], default='onnx', help='(onnx)')
    parser.add_argument('--out', type=Path, help='file; by default named as the config')
    parser.add_argument(
        '--check',
        action='store_true',
        help='run the file beside the model on pictures of three sizes',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of all pictures; by default they may have any',
    )
    parser.add_argument('--half', action='store_true', help='in float16')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone')
    return parser


def _example(model: nn.Module, args: argparse.Namespace) -> Tensor:
    dtype = next(model.parameters()).dtype
    channels = getattr(model, 'backbone', model)
    count = getattr(channels, 'in_channels', 3)
    return torch.randn(1, count, *(args.size or SIZE), dtype=dtype)


def _write(
    model: nn.Module, out: str | Path, example: Tensor, args: argparse.Namespace
) -> int:
    """Write, and check if asked to; 1 where answers differ."""
    dynamic = args.size is None
    if args.to == 'torch':
        save_program(export_program(model, example, dynamic=dynamic), out)
    else:
        export_onnx(model, out, example, dynamic=dynamic)
    if not args.check:
        return 0
    compare = compare_program if args.to == 'torch' else compare_onnx
    sizes = SIZES if dynamic else [tuple(args.size)]
    found = compare(out, model, sizes, channels=example.shape[1])
    for one in found:
        verdict = 'equal' if one.holds else 'DIFFERENT'
        print(
            f'{one.size[0]} x {one.size[1]}: {verdict}, largest difference '
            f'{one.error:.1e} of the largest value'
        )
    return int(not all(one.holds for one in found))
