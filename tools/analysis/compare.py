"""Train configs at equal budget with several seeds; mean and spread of each.

    python -m tools.analysis.compare CONFIG [CONFIG ...] --seeds 0 1 2 --out FOLDER
    python -m tools.analysis.compare CONFIG --iterations 250 --fraction 0.25 0.5 1

Configs of mmdet and mmseg, of any kind. Every run is a process of its own, which trains
with mmssm-train and evaluates its last checkpoint with mmssm-test; there is no
validation on the way. FOLDER gets table.md, table.json, plot.png and a folder for each
run. Running again reads what is finished, goes on with what was interrupted and tries
again what failed, so that more seeds or configs are added by naming all of them. A run
whose settings have changed stops the comparison before anything is trained, with the
settings that differ; --fresh trains such runs anew. What differs beside settings, such
as the sources, packages or the machine, is named below the table.

--iterations gives every config this length: their own schedules, whatever they count,
are scaled to it as by mmssm-train --fit-schedule.

--fraction trains on shares of the pictures, drawn with the seed by the names of the
pictures: of one share and seed all configs get the same. The number of iterations
stays the same.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmssm.analysis.style import write_numbers
from mmssm.openmmlab.cli import add_options
from mmssm.openmmlab.engine.config_keys import check_config
from mmssm.openmmlab.engine.configs import read_config, task_scope
from mmssm.openmmlab.errors import UserError
from tools.analysis.comparison import plan, summary
from tools.benchmarks.report import insert, write_whole
from tools.demo.steps import LIVE, Failure, Step, say, take_lock

ROOT = Path(__file__).resolve().parents[2]
ONE_RUN = ['-m', 'tools.analysis.comparison.one_run']


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('configs', nargs='+', metavar='CONFIG')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--out', type=Path, default=Path('work_dirs/comparison'), metavar='FOLDER')
    add('--iterations', type=int, metavar='N', help="else each config's own length")
    add('--fraction', type=float, nargs='+', default=[1.0], help='of the pictures')
    add('--labels', nargs='+', help='names of the configs in the table')
    add('--jobs', type=int, default=1, help='runs at the same time')
    add('--threads', type=int, default=1, help='of each run, on CPUs')
    add('--fresh', action='store_true', help='train anew what other settings made')
    add('--into', nargs=2, metavar=('PAGE', 'NAME'), help='marked place of a page')
    add_options(parser)
    args = parser.parse_args(arguments)
    args.labels = args.labels or [Path(config).stem for config in args.configs]
    for name in ('iterations', 'jobs', 'threads'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name} is {value}; expected from 1')
    if len(args.labels) != len(args.configs):
        parser.error(
            f'--labels are {len(args.labels)}, the configs {len(args.configs)}; give '
            'one for each'
        )
    for name in ('labels', 'seeds', 'fraction'):
        twice = [v for v in getattr(args, name) if getattr(args, name).count(v) > 1]
        if twice:
            parser.error(f'--{name}: {twice[0]} is there twice; name each once')
    wrong = [label for label in args.labels if '/' in label or label.startswith('.')]
    if wrong:
        parser.error(f'--labels: {wrong[0]} cannot be the name of a folder')
    return args


def settings_of(args: argparse.Namespace) -> dict[plan.Run, Config]:
    """The config of every run.

    Raises UserError for what of a config cannot be compared.
    """
    read = {
        label: read_config(path, args.cfg_options)
        for label, path in zip(args.labels, args.configs, strict=True)
    }
    for cfg in read.values():
        check_config(cfg)
    names = {}
    if any(fraction != 1 for fraction in args.fraction):
        names = {label: plan.picture_names(cfg) for label, cfg in read.items()}
    found = {}
    for run in plan.plan(args.labels, args.fraction, args.seeds, args.out):
        cfg = plan.derive(read[run.label], run.seed, args.iterations)
        if names:
            plan.take(cfg, run.fraction, run.seed, names[run.label])
        found[run] = cfg
    return found


def unequal(settings: dict[plan.Run, Config]) -> list[str]:
    """A note for each task whose configs do not have one budget."""
    budgets: dict[str, dict[str, dict]] = {}
    for run, cfg in settings.items():
        budgets.setdefault(task_scope(cfg), {})[run.label] = plan.budget(cfg)
    notes = []
    for by_label in budgets.values():
        first, *others = by_label.items()
        for label, other in others:
            changes = plan.differences(first[1], other)
            if changes:
                which = '; '.join(changes)
                notes.append(f'**Not one budget**: {first[0]} -> {label}, {which}.')
    return notes


def changed(settings: dict[plan.Run, Config]) -> dict[plan.Run, list[str]]:
    """Runs that are there already, with what is not as it was in their settings."""
    found = {}
    for run, cfg in settings.items():
        path = run.folder / 'config.py'
        if path.is_file():
            before = Config.fromfile(path).to_dict()
            differences = plan.differences(before, cfg.to_dict())
            if differences:
                found[run] = differences
    return found


def refuse_changed(found: dict[plan.Run, list[str]]) -> None:
    """Raises Failure, with what has changed, where anything has."""
    if not found:
        return
    lines = [f'    {run.name()}: {"; ".join(d[:5])}' for run, d in found.items()]
    more = [f'    and {len(lines) - 8} more'] * (len(lines) > 8)
    raise Failure(
        'these runs were made with other settings than those they would have (before '
        '-> now):\n'
        + '\n'.join([*lines[:8], *more])
        + '\nGive another --out, or train them anew with --fresh'
    )


def prepare(settings: dict[plan.Run, Config], fresh: bool) -> list[plan.Run]:
    """Write the configs of runs; returns those that are not finished.

    Raises Failure where settings have changed, unless `fresh`.
    """
    found = changed(settings)
    if not fresh:
        refuse_changed(found)
    for run in found:
        shutil.rmtree(run.folder)
    waiting = []
    for run, cfg in settings.items():
        run.folder.mkdir(parents=True, exist_ok=True)
        if not (run.folder / 'config.py').is_file():
            write_whole(run.folder / 'config.py', cfg.pretty_text)
        if not (run.folder / 'result.json').is_file():
            waiting.append(run)
    return waiting


def run_all(
    waiting: Sequence[plan.Run], args: argparse.Namespace, lock: int
) -> dict[plan.Run, str]:
    """Run them, so many at a time; returns the reasons of those that failed."""
    flags = ['--fit-schedule'] if args.iterations else []
    left, running, failed = list(waiting), {}, {}
    shown = time.monotonic()
    try:
        while left or running:
            while left and len(running) < args.jobs:
                run = left.pop(0)
                command = [*ONE_RUN, str(run.folder), *flags]
                title = f'{len(waiting) - len(left)} of {len(waiting)}: {run.name()}'
                log = run.folder / 'log.txt'
                running[run] = Step(title, command, log, lock, args.threads)
            for run, step in list(running.items()):
                try:
                    done = step.done()
                except Failure as failure:
                    say(str(failure))
                    failed[run], done = step.last_words(1)[0], True
                if done:
                    del running[run]
            if running and time.monotonic() - shown > (1 if LIVE else 60):
                shown = time.monotonic()
                states = (f'{r.name()} {s.progress()}' for r, s in running.items())
                say('    ' + '; '.join(states), passing=True)
            time.sleep(0.2)
    finally:
        for step in running.values():
            step.process.terminate()
        for step in running.values():
            step.process.wait()
    return failed


def write_tables(
    runs: Sequence[plan.Run], failed: dict[plan.Run, str], notes: list[str], out: Path
) -> str:
    """table.md, table.json and plot.png of a folder; returns the table."""
    outcomes = [summary.read_outcome(run, failed.get(run)) for run in runs]
    text = summary.to_markdown(outcomes, notes)
    write_whole(out / 'table.md', text)
    write_numbers(out / 'table.json', summary.to_numbers(outcomes, notes))
    summary.draw(str(out / 'plot.png'), outcomes)
    return text


def compare(args: argparse.Namespace) -> int:
    """Do whatever is missing, then write the tables; how many runs failed."""
    settings = settings_of(args)
    notes = unequal(settings)
    lock = take_lock(args.out / 'lock', 'comparison')
    try:
        waiting = prepare(settings, args.fresh)
        finished = len(settings) - len(waiting)
        say(f'{len(settings)} runs, {finished} of them finished before')
        failed = run_all(waiting, args, lock)
    finally:
        os.close(lock)
    text = write_tables([*settings], failed, notes, args.out)
    say(f'done\n\n{text}')
    print(f'{args.out}/table.md, table.json and plot.png')
    if args.into:
        page = Path(args.into[0])
        write_whole(page, insert(page.read_text(), args.into[1], text))
    return len(failed)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    args = parse(arguments)
    try:
        failed = compare(args)
    except (Failure, UserError) as failure:
        raise SystemExit(f'\ncompare: {failure}') from None
    except KeyboardInterrupt:
        raise SystemExit('\ncompare: stopped; run it again to go on') from None
    if failed:
        sys.exit(f'compare: {failed} runs failed; running it again tries them again')


if __name__ == '__main__':
    main()
