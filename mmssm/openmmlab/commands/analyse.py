"""Look at runs and data: learning curves, confusions, worst pictures, the pipeline."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.progress import track

from mmssm.analysis import style
from mmssm.openmmlab.cli import add_config
from mmssm.openmmlab.engine.configs import read_config
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Predictor, load
from mmssm.openmmlab.prediction.results import write_picture
from mmssm.openmmlab.reporting import confusion, curves, pairs, sheets
from mmssm.openmmlab.reporting.browsing import Feed
from mmssm.openmmlab.reporting.evaluating import Evaluation, evaluate, spread, worst
from mmssm.openmmlab.reporting.losses import Losses
from mmssm.openmmlab.reporting.truth import Truths

LOADERS = ('train', 'val', 'test')


def main(argv: Sequence[str] | None, name: str) -> None:
    """The command `mmssm-analyse`."""
    args = _parser(name).parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    args.command(args)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar='WHAT')
    one = _add(commands, 'curves', _curves, 'learning curves of one or many runs')
    one.add_argument('work_dir', nargs='+', help='work_dir of a training')
    one = _add(commands, 'confusion', _confusion, 'confusion matrix, table of classes')
    _add_model(one)
    one = _add(commands, 'worst', _worst, 'the worst pictures beside the truth')
    _add_model(one)
    one.add_argument(
        '--by',
        choices=['metric', 'loss', 'both'],
        default='both',
        help='F1, mean IoU or PQ, the loss, or a sheet of each (both)',
    )
    one.add_argument('--count', type=int, default=12, help='pictures on a sheet (12)')
    one = _add(commands, 'browse', _browse, 'what the pipeline feeds the model')
    add_config(one)
    one.add_argument('--data', choices=LOADERS, default='train', help='(train)')
    one.add_argument('--count', type=int, default=24, help='pictures (24)')
    one.add_argument('--columns', type=int, default=4, help='pictures in a row (4)')
    one.add_argument('--seed', type=int, default=0, help='of the augmentation (0)')
    return parser


def _add(
    commands: argparse._SubParsersAction, name: str, command: object, about: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about)
    parser.add_argument(
        '--out', type=Path, default=Path('analysis'), help='folder (analysis)'
    )
    parser.set_defaults(command=command)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('checkpoint', help="weights, or 'official'")
    add_evaluation(parser)


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Arguments of what predicts on the pictures of a config."""
    parser.add_argument('--data', choices=LOADERS, default='test', help='(test)')
    parser.add_argument(
        '--score', type=float, default=0.3, help='objects from which on count (0.3)'
    )
    parser.add_argument(
        '--most', type=int, metavar='N', help='N pictures at most, evenly spread'
    )
    parser.add_argument('--batch', type=int, default=1, help='pictures at a time (1)')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, …; by default a GPU')
    parser.add_argument('--amp', choices=['bf16', 'fp16'], help='mixed precision')


def _curves(args: argparse.Namespace) -> None:
    names = curves.names(args.work_dir)
    runs = [
        curves.read_run(folder, name)
        for folder, name in zip(args.work_dir, names, strict=True)
    ]
    style.write_figure(args.out / 'curves.png', curves.draw(runs))
    style.write_numbers(
        args.out / 'curves.json', {'runs': [run.as_json() for run in runs]}
    )
    for run in runs:
        for note in run.notes:
            print(f'{run.name}: {note}')
    _tell(args.out, 'curves.png', 'curves.json')


def _confusion(args: argparse.Namespace) -> None:
    model, truths, result = _evaluate(args, loss=False)
    of = 'pixels' if truths.of_pixels else 'objects'
    figure = confusion.draw(result.labels, result.confusion, of)
    style.write_figure(args.out / 'confusion.png', figure)
    style.write_numbers(args.out / 'confusion.json', as_json(result, of))
    print(table(result.rows))
    print('  '.join(f'{key} {shown(v)}' for key, v in result.overall.items()))
    for real, found, count in confusion.confused(result.labels, result.confusion, 5):
        print(f'{real} taken for {found}: {count} {of}')
    _tell(args.out, 'confusion.png', 'confusion.json')


def _worst(args: argparse.Namespace) -> None:
    model, truths, result = _evaluate(args, loss=args.by != 'metric')
    written, content = [], {}
    for kind in ('metric', 'loss') if args.by == 'both' else (args.by,):
        by = 'loss' if kind == 'loss' else 'score'
        chosen = list(worst(result.outcomes, args.count, by))
        tiles = pairs.tiles(model, truths, chosen, args.score)
        sheet = sheets.sheet(tiles, 1 if truths.of_pixels else 2)
        write_picture(args.out / f'worst_by_{kind}.png', sheet)
        written.append(f'worst_by_{kind}.png')
        content[f'by_{kind}'] = [outcome.index for outcome in chosen]
    measure = truths.measure
    content = {**content, 'measure': measure, 'pictures': outcomes(result)}
    style.write_numbers(args.out / 'worst.json', content)
    _tell(args.out, *written, 'worst.json')


def _browse(args: argparse.Namespace) -> None:
    feed = Feed(read_config(args.config, args.cfg_options), args.data, args.seed)
    chosen = spread(len(feed), args.count)
    if not chosen:
        raise UserError(f'{args.data}_dataloader has no picture')
    tiles = list(feed.tiles(progress(chosen, 'loading')))
    write_picture(args.out / 'browse.png', sheets.sheet(tiles, args.columns))
    entries = [
        {'index': index, 'name': tile.words[0], 'about': tile.words[1]}
        for index, tile in zip(chosen, tiles, strict=True)
    ]
    content = {'data': args.data, 'seed': args.seed, 'pictures': entries}
    style.write_numbers(args.out / 'browse.json', content)
    _tell(args.out, 'browse.png', 'browse.json')


def _evaluate(
    args: argparse.Namespace, loss: bool
) -> tuple[Predictor, Truths, Evaluation]:
    cfg = read_config(args.config, args.cfg_options)
    model = load(cfg, args.checkpoint, args.device, amp=args.amp)
    truths = Truths(cfg, args.data)
    result = evaluate(
        model,
        truths,
        score=args.score,
        batch=args.batch,
        most=args.most,
        loss=Losses(model, cfg, truths) if loss else None,
        progress=progress,
    )
    return model, truths, result


def progress(items: Sequence[int], what: str = 'predicting') -> Iterable[int]:
    """The items with a bar that disappears at the end."""
    return track(items, what, transient=True)


def as_json(result: Evaluation, of: str) -> dict:
    """The numbers of an evaluation for a JSON file."""
    return {
        'counts of': of,
        'labels': list(result.labels),
        'confusion (truth, prediction)': result.confusion.tolist(),
        'overall': result.overall,
        'classes': result.rows,
    }


def outcomes(result: Evaluation) -> list[dict]:
    """How the model did on each picture, for a JSON file."""
    return [outcome._asdict() for outcome in result.outcomes]


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as aligned text."""
    heads = list(rows[0])
    lines = [heads, *([shown(row[head]) for head in heads] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return '\n'.join(
        '  '.join(
            text.rjust(wide) if i else text.ljust(wide)
            for i, (text, wide) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shown(value: object) -> str:
    """A number of a table as text; a dash for one that is not there."""
    if value is None:
        return '-'
    return f'{value:.3f}' if isinstance(value, float) else str(value)


def _tell(folder: Path, *names: str) -> None:
    print(f'{folder}: {", ".join(names)}')
