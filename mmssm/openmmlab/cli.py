"""The commands mmssm-train, mmssm-test and mmssm-doctor: flags and plain errors."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


def train(argv: Sequence[str] | None = None) -> None:
    """Train a detector or a segmenter; flags as in mmdet's and mmseg's train.py."""
    _run('mmssm-train', _train, argv)


def test(argv: Sequence[str] | None = None) -> None:  # noqa: PT028 (a command)
    """Evaluate a checkpoint; flags as in mmdet's and mmseg's test.py."""
    _run('mmssm-test', _test, argv)


def doctor(argv: Sequence[str] | None = None) -> None:
    """Say what is installed, what can run, and how to put the rest right."""
    from mmssm.openmmlab.doctor import main

    sys.exit(main(argv))


def _train(name: str, argv: Sequence[str] | None) -> None:
    parser = _parser(name, train.__doc__)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size, by auto_scale_lr',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the newest one in the work dir',
    )
    args = _parse(parser, argv)

    from mmssm.openmmlab.engine import configs, running

    cfg = configs.read_config(args.config, args.cfg_options, args.work_dir)
    cfg.launcher = args.launcher
    running.train(
        cfg, amp=args.amp, auto_scale_lr=args.auto_scale_lr, resume=args.resume
    )


def _test(name: str, argv: Sequence[str] | None) -> None:
    parser = _parser(name, test.__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        help='save predictions: a .pkl file for detection, a folder for segmentation',
    )
    parser.add_argument('--show', action='store_true', help='show predictions')
    parser.add_argument('--show-dir', metavar='FOLDER', help='save painted images here')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show shows an image'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='augment and merge, by tta_model of the config',
    )
    parser.add_argument(
        '--lenient-keys',
        action='store_true',
        help='test even if keys of the checkpoint are missing, unexpected or misshapen',
    )
    args = _parse(parser, argv)

    from mmssm.openmmlab.engine import configs, running

    cfg = configs.read_config(args.config, args.cfg_options, args.work_dir)
    cfg.launcher = args.launcher
    options = running.EvaluationOptions(
        out=args.out,
        show=args.show,
        show_dir=args.show_dir,
        wait_time=args.wait_time,
        tta=args.tta,
        lenient_keys=args.lenient_keys,
    )
    running.evaluate(cfg, args.checkpoint, options)


def _parser(name: str, description: str | None) -> argparse.ArgumentParser:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change settings of the config: a.b=1 c="[1,2]" d="[(1,2),(3,4)]"; '
        'quote, and leave no blanks',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run',
    )
    # older torch.distributed.launch passes it; newer ones set LOCAL_RANK
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def _parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def _run(
    name: str,
    command: Callable[[str, Sequence[str] | None], None],
    argv: Sequence[str] | None,
) -> None:
    """Run, and end with a plain message where the user can put something right."""
    try:
        from mmssm.openmmlab.errors import UserError
    except ModuleNotFoundError as error:
        _fail(
            f'{name}: the module {error.name} is not installed. pip install '
            "'mmssm[onedl]' installs all that is needed; mmssm-doctor says more"
        )
    try:
        command(name, argv)
    except UserError as error:
        _fail(f'{name}: {error}')
    except KeyboardInterrupt:
        _fail(f'{name}: interrupted')


def _fail(message: str) -> NoReturn:
    """Exit with status 1; of many processes the first of each machine speaks."""
    sys.exit(message if os.environ.get('LOCAL_RANK', '0') == '0' else 1)
