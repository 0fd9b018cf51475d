"""Top-1 and top-5 of a classifier on a folder of pictures, beside the published figure.

    mmssm-evaluate spatial_mamba_tiny data/imagenet/val
    mmssm-evaluate CONFIG data/imagenet/val --weights work_dirs/NAME/epoch_300.pth

The folder has one folder of pictures for each class.  A model of mmssm.list_models()
needs PyTorch and Pillow only; a config, and with it any host of the 2-D SSM, needs
mmpretrain.  Pictures are read as the model's recipe says: short side 256, the middle
224 x 224.  The classes of the model are the sorted names of the folders, or the lines
of --classes, of which the folder may then have some.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from mmssm import zoo
from mmssm.analysis.accuracy import (
    Accuracy,
    Pictures,
    Recipe,
    accuracy,
    find_pictures,
    published_top1,
)
from mmssm.backbones.classifier import classes_in
from mmssm.openmmlab.cli import add_options
from mmssm.openmmlab.errors import UserError
from mmssm.weights import RELEASED, DownloadError

OFFICIAL = 'official'
EVERY = 10.0  # seconds between two lines about the progress
SHOWN = 10  # pictures that cannot be read, of which a message gives the names


class Candidate(NamedTuple):
    """What is evaluated: the network, how pictures are read, and what was published."""

    model: nn.Module
    recipe: Recipe
    published: float | None


def main(argv: Sequence[str] | None = None, name: str | None = None) -> int:
    """Exit status 1 when pictures could not be read.

    Raises UserError for what the user can put right.
    """
    args = _parser(name).parse_args(argv)
    try:
        files, names = find_pictures(args.folder, _classes(args.classes))
        candidate = _candidate(args, len(names))
        pictures = Pictures(files, _recipe(candidate.recipe, args))
        model = candidate.model.to(args.device).eval()
        found = accuracy(
            model,
            pictures,
            batch_size=args.batch_size,
            workers=args.workers,
            device=args.device,
            told=_progress(len(files)),
        )
    except (DownloadError, FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
    print(_report(args, pictures.recipe, names, found, candidate.published))
    if found.unreadable:
        rest = len(found.unreadable) - SHOWN
        print(
            f'{len(found.unreadable)} pictures cannot be read and do not count: '
            f'{", ".join(found.unreadable[:SHOWN])}{f", … {rest} more" * (rest > 0)}',
            file=sys.stderr,
        )
    return 1 if found.unreadable else 0


def _parser(name: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('model', help='name of the zoo, or a config of mmpretrain')
    parser.add_argument('folder', type=Path, help='with a folder for each class')
    parser.add_argument(
        '--weights',
        default=OFFICIAL,
        help="a file, or 'official': the released ones, downloaded once (default)",
    )
    parser.add_argument('--key', help="outer key of the weights, such as 'model_ema'")
    parser.add_argument(
        '--classes',
        type=Path,
        metavar='FILE',
        help='names of the folders in the order of the model, one in a line',
    )
    parser.add_argument('--batch-size', type=_positive, default=64, metavar='N')
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument(
        '--workers', type=int, default=workers, help='processes that read (%(default)s)'
    )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=device, help='%(default)s on this machine')
    parser.add_argument('--resize', type=_positive, help='short side; the recipe: 256')
    parser.add_argument('--crop', type=_positive, help='of the middle; the recipe: 224')
    add_options(parser)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a number from 1')
    return value


def _classes(path: Path | None) -> list[str] | None:
    """The first word of each line, as lists of ImageNet's synsets have them."""
    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(f'there is no list of classes at {path}')
    lines = path.read_text(encoding='utf-8').splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'{path} has classes twice: {", ".join(twice[:5])}')
    return names


def _candidate(args: argparse.Namespace, classes: int) -> Candidate:
    if args.model.endswith('.py'):
        from mmssm.openmmlab.classifying import from_config

        found = from_config(args.model, args.cfg_options, args.weights, args.key)
        _check_classes(found.classes, classes, args)
        published = published_top1(found.family, found.arch, RELEASED)
        return Candidate(found.model, found.recipe, published)
    if args.model not in zoo.MODELS:
        raise ValueError(
            f'there is no model {args.model!r} and it is no config (*.py); models are '
            f'{", ".join(zoo.list_models())}'
        )
    if args.cfg_options:
        raise ValueError(
            f'--cfg-options changes a config, and {args.model} is a model of the zoo'
        )
    family, arch = zoo.MODELS[args.model]
    backbone = family(arch, out_indices=(-1,))
    path = backbone.find_weights(args.weights)
    own = classes_in(path, family.family, args.key)
    _check_classes(own, classes, args)
    model = zoo.Classifier(backbone, classes)
    model.load_pretrained(path, key=args.key)
    published = published_top1(family.family, arch, RELEASED)
    return Candidate(model, Recipe(), published)


def _check_classes(own: int | None, found: int, args: argparse.Namespace) -> None:
    if own is None:
        raise ValueError(
            f'{args.weights} has no head; expected the weights of a classifier'
        )
    if own != found:
        source = args.classes or args.folder
        raise ValueError(
            f'{args.weights} is a classifier of {own} classes, but {source} has '
            f'{found}; --classes FILE names the {own} folders in the order of the '
            f'model, one in a line, and {args.folder} may have some of them'
        )


def _recipe(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    given = {'resize': args.resize, 'crop': args.crop}
    return recipe._replace(**{k: v for k, v in given.items() if v is not None})


def _progress(total: int) -> Callable[[int, float], None]:
    last = time.monotonic()

    def tell(count: int, top1: float) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f'{count} of {total}: top-1 {top1:.2f}', file=sys.stderr, flush=True)

    return tell


def _report(
    args: argparse.Namespace,
    recipe: Recipe,
    names: Sequence[str],
    found: Accuracy,
    published: float | None,
) -> str:
    lines = [
        f'{args.model} with the weights {args.weights}: {found.count} pictures of '
        f'{len(names)} classes, {recipe.crop} x {recipe.crop} of short side '
        f'{recipe.resize}',
        f'top-1 {found.top1:6.2f}',
    ]
    if published is not None:
        lines[1] += f'   published for the released weights on ImageNet-1K: {published}'
    if found.top5 is not None:
        lines.append(f'top-5 {found.top5:6.2f}')
    return '\n'.join(lines)
