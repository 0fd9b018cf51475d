"""Write a page about a training: curves, metrics, pictures, data and config.

One HTML file that needs no other and no network.  It predicts with the best checkpoint
of the folder, or the last one, on the test data of its config.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mmssm.openmmlab.cli import add_options
from mmssm.openmmlab.commands.analyse import add_evaluation, progress
from mmssm.openmmlab.reporting.material import Options, gather
from mmssm.openmmlab.reporting.page import page
from mmssm.weights import write_whole


def main(argv: Sequence[str], name: str) -> None:
    """The command `mmssm-report`."""
    args = _parser(name).parse_args(argv)
    options = Options(
        data=args.data,
        score=args.score,
        most=args.most,
        shown=args.count,
        batch=args.batch,
        device=args.device,
        amp=args.amp,
        progress=progress,
    )
    material = gather(
        args.work_dir, options, args.config, args.checkpoint, args.cfg_options
    )
    material.commands.append(shlex.join([name, *argv]))
    out = args.out or args.work_dir / 'report.html'
    write_whole(out, page(material).encode())
    for text in material.missing:
        print(f'not on the page: {text}')
    print(out)


def _parser(name: str) -> argparse.ArgumentParser:
    about, _, more = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(prog=name, description=about, epilog=more)
    parser.add_argument('work_dir', type=Path, help='work_dir of a training')
    parser.add_argument('--config', help='by default the newest of the work_dir')
    parser.add_argument('--checkpoint', help='by default the best or last one of it')
    add_options(parser)
    parser.add_argument('--out', type=Path, help='(WORK_DIR/report.html)')
    parser.add_argument('--count', type=int, default=6, help='pictures of a kind (6)')
    add_evaluation(parser)
    parser.set_defaults(most=500)
    return parser
