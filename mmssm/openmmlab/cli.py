"""The commands of the package: their flags, and plain errors in place of tracebacks.

Imports the standard library only; what a command needs is imported when it runs, and
what is missing then is named together with the way to install it.
"""

import argparse
import ast
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mmssm.openmmlab.errors import UserError, stop_without

Command = Callable[[str, Sequence[str] | None], int | None]


def train(argv: Sequence[str] | None = None) -> None:
    """Train a detector, segmenter or classifier; flags as in mmdet's train.py."""
    _run('mmssm-train', _train, argv)


def test(argv: Sequence[str] | None = None) -> None:  # noqa: PT028 (a command)
    """Evaluate a checkpoint of any of the three; flags as in mmdet's test.py."""
    _run('mmssm-test', _test, argv)


def doctor(argv: Sequence[str] | None = None) -> None:
    """Say what is installed, what can run, and how to put the rest right."""
    from mmssm.openmmlab.doctor import main

    sys.exit(main(argv))


def check_data(argv: Sequence[str] | None = None) -> None:
    """Look at the data of a config before hours are spent on training with it."""
    _run('mmssm-check-data', _check_data, argv)


def flops(argv: Sequence[str] | None = None) -> None:
    """Parameters and multiply-accumulates of a config's model or one of the zoo."""
    _run('mmssm-flops', _flops, argv)


def convert(argv: Sequence[str] | None = None) -> None:
    """Convert an official checkpoint to the names of this package."""
    _run('mmssm-convert', _convert, argv)


def download(argv: Sequence[str] | None = None) -> None:
    """Fetch the official weights of a model."""
    _run('mmssm-download', _download, argv)


def predict(argv: Sequence[str] | None = None) -> None:
    """Predict on pictures, a folder of them, or a video, and draw what was found."""
    _run('mmssm-predict', _predict, argv)


def export(argv: Sequence[str] | None = None) -> None:
    """Write a trained model as an ONNX file or a program of torch.export."""
    _run('mmssm-export', _export, argv)


def analyse(argv: Sequence[str] | None = None) -> None:
    """Look at runs and data: curves, confusions, worst pictures, the pipeline."""
    _run('mmssm-analyse', _analyse, argv)


def report(argv: Sequence[str] | None = None) -> None:
    """Write a page about a training: curves, metrics, pictures, data and config."""
    _run('mmssm-report', _report, argv)


def look(argv: Sequence[str] | None = None) -> None:
    """Draw what a model looks at: receptive fields, kernels, mixing, features, CAM."""
    _run('mmssm-look', _look, argv)


def evaluate(argv: Sequence[str] | None = None) -> None:
    """Top-1 and top-5 of a classifier on a folder of pictures, one for each class."""
    _run('mmssm-evaluate', _evaluate, argv)


def _train(name: str, argv: Sequence[str] | None) -> None:
    parser = _parser(name, train.__doc__)
    _add_amp(parser, 'train')
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
    parser.add_argument(
        '--on-nan',
        choices=['stop', 'skip', 'warn'],
        help='what a loss that is not finite does: stop and save its batch (default), '
        'skip the step, or warn',
    )
    parser.add_argument(
        '--fit-schedule',
        action='store_true',
        help='scale warm-up, milestones and ends of param_scheduler to the run',
    )
    parser.add_argument(
        '--skip-checks',
        action='store_true',
        help='train whatever a first look at the data finds',
    )
    args = _parse(parser, argv)

    from mmssm.openmmlab.engine import configs, explaining, running

    cfg = configs.read_config(args.config, args.cfg_options, args.work_dir)
    cfg.launcher = args.launcher
    with explaining.explained(cfg):
        running.train(
            cfg,
            amp=args.amp,
            auto_scale_lr=args.auto_scale_lr,
            resume=args.resume,
            on_nan=args.on_nan,
            fit_schedule=args.fit_schedule,
            skip_checks=args.skip_checks,
            arguments=sys.argv[1:] if argv is None else argv,
        )


def _test(name: str, argv: Sequence[str] | None) -> None:
    parser = _parser(name, test.__doc__)
    parser.add_argument(
        'checkpoint',
        help="checkpoint file, or 'official': what was released for this config",
    )
    parser.add_argument(
        '--out',
        help='save predictions: a folder for segmentation, a .pkl file for others',
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
    _add_amp(parser, 'test')
    parser.add_argument(
        '--lenient-keys',
        action='store_true',
        help='test even if keys of the checkpoint are missing, unexpected or misshapen',
    )
    args = _parse(parser, argv)

    from mmssm.openmmlab.engine import configs, explaining, running

    cfg = configs.read_config(args.config, args.cfg_options, args.work_dir)
    cfg.launcher = args.launcher
    options = running.EvaluationOptions(
        out=args.out,
        show=args.show,
        show_dir=args.show_dir,
        wait_time=args.wait_time,
        tta=args.tta,
        amp=args.amp,
        lenient_keys=args.lenient_keys,
    )
    with explaining.explained(cfg):
        running.evaluate(cfg, args.checkpoint, options)


def _check_data(name: str, argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog=name, description=check_data.__doc__)
    add_config(parser)
    parser.add_argument(
        '--samples', type=int, default=200, help='files to open in each dataset (200)'
    )
    parser.add_argument('--all', action='store_true', help='open every file')
    parser.add_argument(
        '--skip-batch',
        action='store_true',
        help='do not carry a batch through the model, which takes a while if it is '
        'large',
    )
    args = parser.parse_args(argv)

    from mmssm.openmmlab.engine.configs import read_config

    cfg = read_config(args.config, args.cfg_options)

    from mmssm.openmmlab import data_checks
    from mmssm.openmmlab.engine.config_keys import check_config
    from mmssm.openmmlab.engine.explaining import explained

    samples = None if args.all else args.samples
    with explained(cfg):
        check_config(cfg)
        return data_checks.run(cfg, samples, batch=not args.skip_batch)


def _flops(name: str, argv: Sequence[str] | None) -> None:
    from mmssm.openmmlab.commands.flops import main

    main(argv, name)


def _convert(name: str, argv: Sequence[str] | None) -> int:
    from mmssm.openmmlab.commands.convert import main

    return main(argv, name)


def _download(name: str, argv: Sequence[str] | None) -> int | None:
    from mmssm.weights.download import main

    return main(argv)


def _predict(name: str, argv: Sequence[str] | None) -> int:
    from mmssm.openmmlab.commands.predict import main

    return main(argv, name)


def _export(name: str, argv: Sequence[str] | None) -> int:
    from mmssm.openmmlab.commands.export import main

    return main(argv, name)


def _analyse(name: str, argv: Sequence[str] | None) -> None:
    from mmssm.openmmlab.commands.analyse import main

    main(argv, name)


def _report(name: str, argv: Sequence[str] | None) -> None:
    from mmssm.openmmlab.commands.report import main

    main(sys.argv[1:] if argv is None else argv, name)


def _look(name: str, argv: Sequence[str] | None) -> None:
    from mmssm.openmmlab.commands.look import main

    main(argv, name)


def _evaluate(name: str, argv: Sequence[str] | None) -> int:
    from mmssm.openmmlab.commands.evaluate import main

    return main(argv, name)


def add_config(parser: argparse.ArgumentParser, about: str = 'config file') -> None:
    """The arguments CONFIG and --cfg-options."""
    parser.add_argument('config', help=about)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The argument --cfg-options."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Settings,
        metavar='KEY=VALUE',
        help='change settings of the config: a.b=1 c="[1,2]" d="[(1,2),(3,4)]"; '
        'quote, and leave no blanks',
    )


class _Settings(argparse.Action):
    """mmengine's DictAction, which --help does without, and dicts as configs have them.

    KEY="[dict(type='EMAHook',momentum=0.02)]": where `dict(` or `{` is in a value it is
    one of Python, of constants, lists, tuples and dicts.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        action = DictAction(self.option_strings, self.dest, nargs=self.nargs)
        found = dict(getattr(namespace, self.dest) or {})
        for given in values or ():
            key, _, text = str(given).partition('=')
            if 'dict(' in text or '{' in text:
                # what is none of Python's may be text, such as '{:08d}.png'
                with contextlib.suppress(SyntaxError, TypeError, ValueError):
                    found[key] = _constant(ast.parse(text, mode='eval').body)
                    continue
            one = argparse.Namespace()
            try:
                if 'dict(' in text:
                    raise ValueError(text)
                action(parser, one, [given], option_string)
            except (AssertionError, RecursionError, ValueError):
                parser.error(
                    f'{option_string} {given}: expected KEY=VALUE, and as VALUE a '
                    'number, a text, or lists and dicts of these, without blanks'
                )
            found |= getattr(one, self.dest)
        setattr(namespace, self.dest, found)


def _constant(node: ast.expr) -> object:
    """The value of an expression of constants, lists, tuples and dicts.

    Raises ValueError for any other.
    """
    if isinstance(node, ast.List):
        return [_constant(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_constant(item) for item in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _constant(key): _constant(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    named = called and not node.args and all(word.arg for word in node.keywords)
    if named and node.func.id == 'dict':
        return {word.arg: _constant(word.value) for word in node.keywords}
    return ast.literal_eval(node)


def _parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description)
    add_config(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run',
    )
    # older torch.distributed.launch passes it; newer ones set LOCAL_RANK
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def _add_amp(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        '--amp',
        nargs='?',
        const='auto',
        choices=['auto', 'bf16', 'fp16'],
        help=f'{verb} in mixed precision; auto: bf16, fp16 on GPUs without it',
    )


def _parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def _run(name: str, command: Command, argv: Sequence[str] | None) -> None:
    """Run, and end with a plain message where the user can put something right."""
    try:
        status = command(name, argv)
    except UserError as error:
        _fail(f'{name}: {error}', error.status, error.everybody)
    except ModuleNotFoundError as error:
        stop_without(name, error)
    except KeyboardInterrupt:
        _fail(f'{name}: interrupted')
    if status:
        sys.exit(status)


def _fail(message: str, status: int = 1, everybody: bool = False) -> NoReturn:
    """Exit; of many processes the first of each machine speaks, or everybody."""
    if not everybody and os.environ.get('LOCAL_RANK', '0') != '0':
        sys.exit(status)
    if status == 1:
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.exit(status)
