"""Time and memory of operators, backbones and whole models, next to their peers.

    python -m tools.benchmarks.run --groups ops
    python -m tools.benchmarks.run --groups backbones --sizes 512x512 --threads 2
    python -m tools.benchmarks.run --cases spatialmamba-t swin-t --base main
    python -m tools.benchmarks.run --groups layers --sizes 128x128 800x1333 --batch 4 1
    python -m tools.benchmarks.run --list

Before anything is timed each case of this package is compared with its definition, in
double and with gradients; if one differs, nothing is timed and the exit status is 1.
Then the cases of a size take turns, after two rounds that do not count; times are
medians, peak memory is that of one pass in a fresh process, beyond model and input.
With one thread a CPU's time is that of the process, else that on the clock.

Ratios are to the peer of the group, which is measured in any case: Swin-T of mmdet,
else of timm, else ConvNeXt-T.  Backbones of this package need torch alone.  A case that
runs out of a GPU's memory gets a row that says so.
--base REV measures the same cases with the package of another commit, in turns and
without peak memory.

--official NAME=PATH:MODULE:FUNCTION adds a model of another checkout to the backbones:
PATH goes to the front of the import path of a process of its own, FUNCTION() of MODULE
gives a torch.nn.Module that takes images (B, 3, H, W).  What it needs beside, such as
compiled extensions, is yours to install.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.benchmarks.case import DTYPES, MODES, Case, Setting, select
from tools.benchmarks.measure import device, machine, revision, size_of, use
from tools.benchmarks.official import HOW, Official
from tools.benchmarks.parity_gate import red_cases
from tools.benchmarks.report import Row, insert, to_json, to_markdown, write_whole
from tools.benchmarks.revisions import ROOT, checked_out, in_turns
from tools.benchmarks.suite import GROUPS, measure, missing, registry, with_peaks

ROUNDS = 3  # of either revision, with --base


def chosen_cases(args: argparse.Namespace) -> dict[str, Case]:
    """The cases that the command line names, of the groups that can run here."""
    groups = []
    for group in args.groups:
        lacking = missing(group)
        if lacking:
            packages = ' and '.join(lacking)
            print(f'{group} are skipped: {packages} cannot be imported here')
        else:
            groups.append(group)
    cases = registry(groups)
    if not cases:
        raise ValueError('no group can run here; `make setup` installs what they need')
    names = select(cases, args.cases)
    peers = {cases[name].peer for name in names} - {None}
    return {name: case for name, case in cases.items() if name in {*names, *peers}}


def settings(args: argparse.Namespace) -> list[Setting]:
    """Every size in every mode.

    Raises ValueError for numbers of batches and of sizes that do not fit.
    """
    batches = args.batch * len(args.sizes) if len(args.batch) == 1 else args.batch
    if len(batches) != len(args.sizes):
        raise ValueError(
            f'--batch has {len(batches)} numbers for {len(args.sizes)} sizes; expected '
            'one, or one for each size'
        )
    return [
        Setting(
            size_of(size),
            batch,
            mode,
            args.dtype,
            args.device,
            args.compile,
            args.with_cp,
        )
        for size, batch in zip(args.sizes, batches, strict=True)
        for mode in args.mode
    ]


def described(args: argparse.Namespace) -> dict[str, object]:
    """The machine and what holds for all rows."""
    batch = ' '.join(map(str, args.batch))
    more = dict(dtype=args.dtype, batch=batch, repeats=args.repeats)
    options = dict(compiled=args.compile, recomputing=args.with_cp)
    told = {**machine(args.device), **more, 'commit': revision(ROOT)}
    return {**told, **{name: 'yes' for name, on in options.items() if on}}


def save(args: argparse.Namespace, about: dict[str, object], rows: list[Row]) -> None:
    """Write what the command line asks for."""
    if args.json:
        write_whole(args.json, to_json(about, rows))
    table = to_markdown(about, rows)
    if args.markdown:
        write_whole(args.markdown, table)
    if args.into:
        page, name = Path(args.into[0]), args.into[1]
        filled = insert(page.read_text(encoding='utf-8'), name, table)
        write_whole(page, filled)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--groups', nargs='+', choices=GROUPS, default=list(GROUPS))
    add('--cases', nargs='+', default=['*'], help="patterns such as '*swin*'")
    add('--sizes', nargs='+', default=['224x224', '512x512', '800x1280'])
    add('--batch', type=int, nargs='+', default=[1], help='one, or one for each size')
    add('--mode', nargs='+', choices=MODES, default=MODES)
    add('--dtype', choices=DTYPES, default='float32')
    add('--device', type=device, default='cpu', help='cpu, cuda')
    add('--threads', type=int, default=1)
    add('--repeats', type=int, default=5)
    add('--tf32', action='store_true', help='let a GPU round products to TF32')
    add('--compile', action='store_true', help='torch.compile op, network or backbone')
    add('--with-cp', action='store_true', help='recompute blocks in training')
    add('--no-peak', action='store_true', help='leave out peak memory')
    add('--base', metavar='REV', help='commit to compare with')
    add('--official', action='append', default=[], metavar=HOW)
    add('--json', type=Path, metavar='FILE')
    add('--markdown', type=Path, metavar='FILE')
    add('--into', nargs=2, metavar=('PAGE', 'NAME'), help='marked place of a page')
    add('--list', action='store_true', help='print the cases and stop')
    return parser.parse_args(arguments)


def compare(args: argparse.Namespace, names: Sequence[str]) -> list[Row]:
    """Rows with the times of --base beside."""
    same = ['--groups', *args.groups, '--cases', *names, '--sizes', *args.sizes]
    same += ['--batch', *map(str, args.batch), '--mode', *args.mode]
    same += ['--dtype', args.dtype]
    same += ['--device', args.device, '--threads', str(args.threads), '--no-peak']
    same += ['--repeats', str(args.repeats)]
    for flag in ('tf32', 'compile', 'with_cp'):
        same += [f'--{flag.replace("_", "-")}'] * getattr(args, flag)
    with checked_out(args.base) as tree:
        return in_turns(same, tree, ROUNDS)


def run(args: argparse.Namespace) -> int:
    """Gate, measure, report; the exit status."""
    use(args.threads, args.tf32)
    officials = [Official.parse(text) for text in args.official]
    if args.base and officials:
        raise ValueError(
            '--base and --official: models of other checkouts do not depend on the '
            'commit; measure them in a run without --base'
        )
    if args.into:  # before hours are spent
        insert(Path(args.into[0]).read_text(encoding='utf-8'), args.into[1], '')
    wanted = settings(args)
    cases = chosen_cases(args)
    if args.list:
        print('\n'.join(cases))
        return 0
    print('parity gate')
    red = red_cases(cases.values(), args.device)
    if red:
        print(f'nothing was timed: {", ".join(red)} not as defined')
        return 1
    about = described(args)
    if args.base:
        about['base'] = args.base
        rows = compare(args, list(cases))
    else:
        rows = []
        for setting in wanted:
            print(f'{setting.size[0]}x{setting.size[1]}, {setting.mode}', flush=True)
            new = measure(cases, officials, setting, args)
            if not args.no_peak:
                new = with_peaks(new, officials, setting, args)
            rows += new
            save(args, about, rows)  # a long run that is stopped leaves what it has
    save(args, about, rows)
    print(f'\n{to_markdown(about, rows)}')
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    try:
        sys.exit(run(parse(arguments)))
    except ValueError as error:
        sys.exit(f'run.py: {error}')


if __name__ == '__main__':
    main()
