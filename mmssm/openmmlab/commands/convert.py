"""Convert an official checkpoint to the names of mmssm.

    mmssm-convert OFFICIAL.pth CONVERTED.pth

The family is recognised, and the architecture, released or of any other size.
Classifiers become backbone weights (their head is left out); a detector or segmenter
keeps its neck and heads and can be tested with tools/test.py.  The result is compared
with the architecture, and nothing is written when a key is missing, unexpected or of
another shape, unless a pattern allows it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmssm import __version__, zoo
from mmssm.backbones import HierarchicalBackbone
from mmssm.weights import (
    FAMILIES,
    compare,
    detect_family,
    from_official,
    load_file,
    not_matching,
    save_file,
    unwrap,
)


def parse_args(argv: Sequence[str] | None, name: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=name,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', type=Path, help='official checkpoint, as downloaded')
    parser.add_argument('target', type=Path, help='file to write')
    parser.add_argument('--family', choices=sorted(FAMILIES), help='default: detected')
    parser.add_argument(
        '--arch', help='name of a released size; default: read from the weights'
    )
    parser.add_argument('--key', help="outer key of the weights, such as 'model_ema'")
    for kind in ('missing', 'unexpected'):
        parser.add_argument(
            f'--allow-{kind}',
            nargs='+',
            default=[],
            metavar='PATTERN',
            help=f"{kind} keys that are accepted, such as 'stem.*' or '*'",
        )
    return parser.parse_args(argv)


def backbone_class(family: str) -> type[HierarchicalBackbone]:
    """The backbone of a family; ValueError for one of hosts and layers."""
    for found in zoo.FAMILIES.values():
        if found.family == family:
            return found
    raise ValueError(
        f'weights of the family {family!r} belong to a layer or to a host of any size; '
        'give mmssm.weights.from_official(weights, family) to its load_state_dict'
    )


def convert(args: argparse.Namespace) -> str:
    """Convert, compare and write; returns a line for the user.

    Raises ValueError or FileNotFoundError with the reason when nothing was written.
    """
    weights = unwrap(load_file(args.source), args.key)
    family = args.family or detect_family(weights)
    if family is None:
        raise ValueError(
            f'{args.source} has no official weights of a known family '
            f'({", ".join(FAMILIES)}); its first key is {next(iter(weights))!r}'
        )
    cls = backbone_class(family)
    converted = from_official(weights, family)
    own = {
        name.removeprefix('backbone.'): weight
        for name, weight in converted.items()
        if name.startswith('backbone.')
    } or converted
    arch = args.arch or cls.arch_of(own)
    options = {'arch': arch} if arch else cls.options_of(own)
    if options is None:
        raise ValueError(
            f'{args.source} has no blocks of {cls.__name__} to read sizes from; '
            f'name one of {", ".join(cls.zoo)} with --arch to see the differences'
        )
    arch = options['arch']
    with torch.device('meta'):
        report = compare(own, cls(**options))
    # a classifier has no output norms
    missing = not_matching(report.missing, ['out_norms.*', *args.allow_missing])
    unexpected = not_matching(report.unexpected, args.allow_unexpected)
    if missing or unexpected or report.mismatched:
        raise ValueError(
            f'{args.source} does not fit {cls.__name__} {arch!r}: {report}. '
            '--allow-missing and --allow-unexpected accept patterns of keys'
        )
    meta = {'family': family, 'arch': arch, 'mmssm_version': __version__}
    save_file({'state_dict': converted, 'meta': meta}, args.target)
    return f'{args.target}: {cls.__name__} {arch!r}, {len(converted)} tensors; {report}'


def main(argv: Sequence[str] | None = None, name: str | None = None) -> int:
    """Exit status 0 when the file was written."""
    try:
        print(convert(parse_args(argv, name)))
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0
