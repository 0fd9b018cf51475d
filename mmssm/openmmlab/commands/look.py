"""Draw what a model looks at; every picture comes with its numbers as JSON.

    mmssm-look receptive-field CONFIG [CONFIG ...]  effective receptive fields
    mmssm-look kernels CONFIG                       of 2-D SSMs and of fused states
    mmssm-look mixing CONFIG ... --image FILE       rows of M, family beside family
    mmssm-look features CONFIG ... --image FILE     maps of the backbone
    mmssm-look cam CONFIG ... --image FILE          Grad-CAM, HiResCAM, Eigen-CAM

CONFIG is a config of mmdet, of mmseg or, but for cam, of mmpretrain, or a model of
mmssm.list_models(); --checkpoint takes a file, 'official' or 'none' for each of them,
or one for all.  For mixing a VMamba may end in @rows, @columns, @rows-back or
@columns-back: that scan alone.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmssm.analysis import cam, features, kernels, mixer_rows, receptive_field, style
from mmssm.layers import SSM2D, StateFusion
from mmssm.openmmlab.cli import add_options
from mmssm.openmmlab.commands.flops import channels
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.looking import subjects

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# a figure, and the numbers in it
Look = Callable[[argparse.Namespace], tuple['Figure', dict]]


def main(argv: Sequence[str] | None, name: str) -> None:
    """The command `mmssm-look`; writes WHAT.png and WHAT.json into --out."""
    args = _parser(name).parse_args(argv)
    with style.styled():
        made, numbers = LOOKS[args.what](args)
        style.write_figure(args.out / f'{args.what}.png', made)
    style.write_numbers(args.out / f'{args.what}.json', numbers)
    print(f'{args.out / args.what}.png and .json')


def _receptive_field(args: argparse.Namespace) -> tuple['Figure', dict]:
    found = _subjects(args)
    rows = {}
    for size in args.size or [(512, 512)]:
        fields = []
        for subject in found:
            images = _images(subject, args, size)
            contribution = _asked(
                receptive_field.receptive_field,
                subject.backbone,
                images,
                output=args.output - 1 if args.output else -1,
                form=args.form,
                seed=args.seed,
            )
            fields.append(receptive_field.Field(subject.title, contribution))
        rows[f'{size[0]} × {size[1]}'] = fields
    numbers = [
        receptive_field.summary(field, args.form)
        for fields in rows.values()
        for field in fields
    ]
    for entry in numbers:
        title = entry['title'].replace('\n', ', ')
        parts = (
            f'{float(share):.0%}: side {area["side"]}, {area["ratio"]:.2%} of the area'
            for share, area in entry['contribution_within'].items()
        )
        print(
            f'{title}, {entry["size"][0]} x {entry["size"][1]}\n  ' + '\n  '.join(parts)
        )
    about = {'form': args.form, 'seed': args.seed, 'inputs': args.image or 'noise'}
    drawn = receptive_field.draw(rows, args.form)
    return drawn, {**about, 'count': args.count, 'fields': numbers}


def _kernels(args: argparse.Namespace) -> tuple['Figure', dict]:
    (subject,) = _subjects(args)
    filters = kernels.find(subject.backbone, SSM2D, args.layer)
    fusions = kernels.find(subject.backbone, StateFusion, args.layer)
    (size,) = args.size or [(32, 32)]
    if filters:
        found = {
            name: kernels.filter_kernels(layer, size, args.tolerance)
            for name, layer in filters.items()
        }
        numbers = {name: kernels.filter_summary(one) for name, one in found.items()}
        name, first = next(iter(found.items()))
        _list('2-D SSMs', found, name)
        chosen = _channels(args.channels, len(first.support))
        return kernels.draw_filter(name, first, chosen), {'filters': numbers}
    if not fusions:
        raise UserError(
            f'{args.configs[0]} has no 2-D SSM and no state fusion whose name matches '
            f'{args.layer!r}'
        )
    fused = {name: kernels.fusion_kernel(layer) for name, layer in fusions.items()}
    _list('fusions', fused)
    shown = _thinned([*fused.items()], args.rows)
    short = {_place(name): kernel for name, kernel in shown}
    least = min(len(kernel) for kernel in short.values())
    drawn = kernels.draw_fusions(short, _channels(args.channels, least))
    return drawn, {
        'fusions': {
            name: {'mean': kernel.mean(0), 'largest': kernel.abs().amax()}
            for name, kernel in fused.items()
        }
    }


def _mixing(args: argparse.Namespace) -> tuple['Figure', dict]:
    picture = subjects.read(args.image, _one(args.size))
    families, numbers = {}, {}
    args.configs, directions = subjects.directions(args.configs)
    found = _subjects(args)
    directions *= len(found) // len(directions)  # one name with many checkpoints
    for subject, direction in zip(found, directions, strict=True):
        if direction:
            subject = subject._replace(title=f'{subject.title}\n{direction} alone')
        x = subject.input(picture)
        caught = mixer_rows.mixer_inputs(
            subject.backbone, lambda s=subject, x=x: s.backbone(x)
        )
        stages = mixer_rows.stages(caught)
        if not 1 <= args.stage <= len(stages):
            has = f'has mixers at {len(stages)} sizes of maps' if stages else 'has none'
            raise UserError(
                f'--stage is {args.stage}; {subject.title.splitlines()[0]} {has}'
            )
        blocks = _thinned([*enumerate(stages[args.stage - 1], 1)], args.rows)
        families[subject.title] = [
            [
                (f'block {n}', _asked(mixer_rows.row, given, spot, direction))
                for n, given in blocks
            ]
            for spot in args.at or mixer_rows.SPOTS
        ]
        numbers[subject.title.replace('\n', ', ')] = [
            found for rows in families[subject.title] for found in rows
        ]
    summary = mixer_rows.summary(numbers)
    for title, rows in summary.items():
        print(title)
        for row in rows:
            print(
                f'  {row["mixer"]:9} at {tuple(row["position"])} of {row["map"]}: '
                f'{row["own"]:.1%} on itself, {row["nearby"]:.1%} within 3 x 3, spread '
                f'{row["spread"]:.2f} cells'
            )
    drawn = mixer_rows.draw(picture, families, args.at or mixer_rows.SPOTS)
    return drawn, {'image': str(args.image), 'stage': args.stage, 'rows': summary}


def _features(args: argparse.Namespace) -> tuple['Figure', dict]:
    picture = subjects.read(args.image, _one(args.size))
    rows = {}
    for subject in _subjects(args):
        x = subject.input(picture)
        rows[subject.title] = _asked(features.stage_maps, subject.backbone, x)
    numbers = {
        title.replace('\n', ', '): features.summary(maps)
        for title, maps in rows.items()
    }
    return features.draw(picture, rows), {'image': str(args.image), 'maps': numbers}


def _cam(args: argparse.Namespace) -> tuple['Figure', dict]:
    from mmssm.openmmlab.engine.configs import read_config
    from mmssm.openmmlab.looking import cams
    from mmssm.openmmlab.prediction import load

    rows, numbers, image = [], {}, None
    for name, checkpoint in subjects.paired(args.configs, args.checkpoint):
        if checkpoint == subjects.UNTRAINED:
            raise UserError('cam explains answers; give --checkpoint')
        model = load(read_config(name, args.cfg_options), checkpoint, args.device)
        found = cams.look(
            model,
            str(args.image),
            score=args.score,
            count=args.count,
            methods=args.method,
            levels=args.levels,
            spots=args.at or (),
        )
        rows += cams.panels(found, subjects.short(name))
        numbers[name] = cams.numbers(found)
        for entry in numbers[name]:
            shares = ', '.join(
                f'{share:.0%} of {method}'
                for method, share in entry['share_of_heat'].items()
            )
            print(
                f'{entry["kind"]} of {entry["name"]}: {shares} on '
                f'{entry["share_of_picture"]:.0%} of the picture'
            )
        image = found.image
    return cam.draw(image, rows), {'image': str(args.image), 'answers': numbers}


LOOKS: dict[str, Look] = {
    'receptive-field': _receptive_field,
    'kernels': _kernels,
    'mixing': _mixing,
    'features': _features,
    'cam': _cam,
}


def _subjects(args: argparse.Namespace) -> list[subjects.Subject]:
    return subjects.find(args.configs, args.checkpoint, args.cfg_options, args.device)


def _images(
    subject: subjects.Subject, args: argparse.Namespace, size: tuple[int, int]
) -> torch.Tensor:
    """Pictures for a backbone, or noise."""
    if args.image is None:
        taken = channels(subject.backbone)
        return receptive_field.noise(args.count, (taken, *size), args.seed).to(
            args.device
        )
    read = subjects.pictures(args.image, args.count, size)
    return torch.cat([subject.input(picture) for picture in read])


def _asked(function: Callable, *given: object, **options: object) -> object:
    """Call, and pass on what the user can put right."""
    try:
        return function(*given, **options)
    except ValueError as error:
        raise UserError(str(error)) from error


def _one(sizes: list[tuple[int, int]] | None) -> tuple[int, int] | None:
    if sizes and len(sizes) > 1:
        raise UserError('--size: one size, please; several are for receptive-field')
    return sizes[0] if sizes else None


def _thinned(items: list, count: int) -> list:
    """At most so many of them, evenly, the first and the last among them."""
    if len(items) <= count:
        return items
    places = torch.linspace(0, len(items) - 1, count).round().long().tolist()
    return [items[place] for place in places]


def _channels(given: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(min(count, 6))) if given is None else list(given)
    wrong = [c for c in chosen if not 0 <= c < count]
    if wrong:
        raise UserError(f'--channels has {wrong[0]}; there are 0 to {count - 1}')
    return chosen


def _list(what: str, found: dict, drawn: str | None = None) -> None:
    print(f'{len(found)} {what}; --layer chooses:')
    for name in found:
        print(f'  {name}{"  (drawn)" if name == drawn else ""}')


def _place(name: str) -> str:
    """'stages.2.blocks.0.ssm.state_fusion' -> 'stage 3, block 1'."""
    numbers = [int(part) + 1 for part in name.split('.') if part.isdigit()]
    return 'stage {}\nblock {}'.format(*numbers) if len(numbers) == 2 else name


def _size(text: str) -> tuple[int, int]:
    """'512' or '800x1280'."""
    parts = text.lower().split('x')
    if not all(part.isdigit() and int(part) for part in parts) or len(parts) > 2:
        raise argparse.ArgumentTypeError(f'{text!r}; expected 512 or 800x1280')
    return int(parts[0]), int(parts[-1])


def _spot(text: str) -> tuple[float, float]:
    """'0.5,0.25': parts of height and width."""
    try:
        down, right = (float(part) for part in text.split(','))
    except ValueError:
        down = right = -1.0
    if not (0 <= down < 1 and 0 <= right < 1):
        raise argparse.ArgumentTypeError(f'{text!r}; expected DOWN,RIGHT from 0 to 1')
    return down, right


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest='what', required=True, metavar='WHAT')
    field = _kind(kinds, 'receptive-field', 'effective receptive fields')
    _add_size(field, '+', 'of the inputs: 512 or 768x1280, one or several (512)')
    field.add_argument('--image', help='a picture or a folder of them; else noise')
    field.add_argument('--count', type=_number, default=4, help='inputs to average (4)')
    field.add_argument(
        '--output', type=_number, help='map of the backbone, from 1 (last)'
    )
    field.add_argument(
        '--form',
        choices=receptive_field.FORMS,
        default='random',
        help='of the output at the middle: randomly weighted channels, or the sum of '
        'their positive parts, as RepLKNet and VMamba have it',
    )
    field.add_argument('--seed', type=int, default=0, help='of weights and noise (0)')
    kernel = _kind(kinds, 'kernels', 'kernels of 2-D SSMs and fused states')
    _add_size(kernel, 1, 'of the maps for a 2-D SSM (32)')
    kernel.add_argument('--layer', default='*', help='names, as a pattern')
    kernel.add_argument('--channels', type=int, nargs='+', help='to draw (0 to 5)')
    kernel.add_argument(
        '--tolerance', type=float, default=1e-2, help='of the support bound (0.01)'
    )
    kernel.add_argument('--rows', type=_number, default=6, help='fusions to draw (6)')
    mixing = _kind(kinds, 'mixing', 'rows of M at chosen pixels')
    mixing.add_argument('--image', required=True, help='a picture')
    _add_size(
        mixing, 1, f'of the picture; by default its own, up to {subjects.LONGEST}'
    )
    mixing.add_argument('--stage', type=_number, default=3, help='from 1 (3)')
    mixing.add_argument('--rows', type=_number, default=5, help='blocks to draw (5)')
    _add_spots(mixing, 'pixels to look from')
    maps = _kind(kinds, 'features', 'maps of the backbone')
    maps.add_argument('--image', required=True, help='a picture')
    _add_size(maps, 1, f'of the picture; by default its own, up to {subjects.LONGEST}')
    heat = _kind(kinds, 'cam', 'Grad-CAM, HiResCAM and Eigen-CAM')
    heat.add_argument('--image', required=True, help='a picture')
    heat.add_argument('--score', type=float, default=0.3, help='least of objects (0.3)')
    heat.add_argument('--count', type=_number, default=3, help='objects or classes (3)')
    heat.add_argument(
        '--method',
        nargs='+',
        choices=cam.METHODS,
        default=cam.METHODS,
        help='to draw (both)',
    )
    heat.add_argument('--levels', type=int, nargs='+', help='maps, from 1 (all)')
    _add_spots(heat, 'pixels of a segmenter')
    return parser


def _kind(kinds: object, name: str, about: str) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=about, description=f'Draw {about}.')
    parser.add_argument(
        'configs', nargs='+', metavar='CONFIG', help='config files or names of models'
    )
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        default=[subjects.UNTRAINED],
        help="for each CONFIG, or one for all: a file, 'official', 'none' (none)",
    )
    parser.add_argument(
        '--out', type=Path, default=Path('looks'), help='folder (looks)'
    )
    parser.add_argument('--device', default='cpu', help='cpu (default), cuda, …')
    add_options(parser)
    return parser


def _add_size(parser: argparse.ArgumentParser, count: str | int, about: str) -> None:
    parser.add_argument('--size', type=_size, nargs=count, metavar='SIZE', help=about)


def _add_spots(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument(
        '--at',
        type=_spot,
        nargs='+',
        metavar='DOWN,RIGHT',
        help=f'{about}, as parts of height and width: 0.5,0.5 0.25,0.75',
    )


def _number(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r}; expected a number from 1')
    return int(text)
