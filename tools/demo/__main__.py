"""Train and evaluate a detector and a segmenter on generated data, in minutes.

    python -m tools.demo [--model spatial-mamba] [--fresh]

Makes two small datasets (tools/demo/data.py), trains Mask R-CNN and UPerNet
on a small backbone with tools/train.py, evaluates each from its checkpoint in a process
of its own with tools/test.py, draws predictions beside the ground truth, and writes a
table. Detection and segmentation run side by side, on one thread each.

Everything lands in work_dirs/demo/MODEL-KEY. KEY follows from whatever the results
follow from: configs, data, sources, installed packages, device. So running again
repeats nothing that is finished, an interrupted training goes on where it stopped, and
after any change all is done anew in another folder.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.demo.results import (
    fingerprint,
    key_of,
    read_metrics,
    table,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[2]

# The configs for detection and for segmentation of every model.
MODELS = {
    'mila': (
        'mask-rcnn_mila-demo_fpn_shapes.py',
        'mila-demo_upernet_shapes.py',
    ),
    'spatial-mamba': (
        'mask-rcnn_spatialmamba-demo_fpn_shapes.py',
        'spatialmamba-demo_upernet_shapes.py',
    ),
    'ssm2d-swin': (
        'mask-rcnn_swin-ssm2d-demo_fpn_shapes.py',
        'swin-ssm2d-demo_upernet_shapes.py',
    ),
    'vmamba': (
        'mask-rcnn_vmamba-demo_fpn_shapes.py',
        'vmamba-demo_upernet_shapes.py',
    ),
    'vminet': (
        'mask-rcnn_vminet-demo_fpn_shapes.py',
        'vminet-demo_upernet_shapes.py',
    ),
}
DATA, RESULTS = Path('data/demo'), Path('work_dirs/demo')
CONFIGS = ROOT / 'configs/demo'
PROGRESS = re.compile(
    r'Iter\((?:train|test)\)\s*\[\s*(\d+)/(\d+)\].*?eta: ([\d:]+)(?:.*?loss: ([\d.]+))?'
)
NEEDED = ('torch', 'cv2', 'skimage', 'matplotlib', 'pycocotools', 'mmengine', 'mmssm')
GIGABYTE, FREE_GIGABYTES = 1e9, 0.5
PR_SET_PDEATHSIG = 1


class Task(NamedTuple):
    """What differs between the two halves of the demo."""

    name: str
    method: str
    metrics: dict[str, str]  # name in the table: name in mmengine's results
    keep_predictions: str  # option of the evaluator
    draw: tuple[str, ...]  # arguments of draw_predictions.py


TASKS = (
    Task(
        name='detection',
        method='Mask R-CNN',
        metrics={'box AP': 'coco/bbox_mAP', 'mask AP': 'coco/segm_mAP'},
        keep_predictions='outfile_prefix',
        draw=(
            f'--images={DATA}/shapes_coco/val',
            f'--annotations={DATA}/shapes_coco/annotations/instances_val.json',
            '--predictions={}.segm.json',
        ),
    ),
    Task(
        name='segmentation',
        method='UPerNet',
        metrics={'mIoU': 'mIoU'},
        keep_predictions='output_dir',
        draw=(
            f'--images={DATA}/shapes_ade/images/validation',
            f'--annotations={DATA}/shapes_ade/annotations/validation',
            '--predictions={}',
            f'--classes={DATA}/shapes_ade/classes.txt',
            '--first-label=1',
        ),
    ),
)


class Failure(Exception):
    """What stops the demo, in words for its user."""


START = time.monotonic()
LIVE = sys.stdout.isatty() and os.environ.get('TERM') != 'dumb'


def say(message: str, *, passing: bool = False) -> None:
    """Print a line with the time since the start.

    On a terminal the next line replaces a passing one.
    """
    minutes, seconds = divmod(int(time.monotonic() - START), 60)
    line = f'[{minutes}:{seconds:02d}] {message}'
    if LIVE and passing:
        line = line[: shutil.get_terminal_size().columns - 1]
    if LIVE:
        line = f'\r\033[K{line}'
    print(line, end='' if LIVE and passing else '\n', flush=True)


def _die_with_parent() -> None:
    """A demo that is killed takes its tools with it (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Step:
    """A tool in a process of its own; what it prints goes to a file."""

    def __init__(self, title: str, command: list[str], log: Path, lock: int) -> None:
        self.title, self.log, self.begin = title, log, time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f'{title}; log: {log}')
        with log.open('w') as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={'OMP_NUM_THREADS': '1', **os.environ},
                pass_fds=[lock],
                preexec_fn=_die_with_parent,
            )

    def done(self) -> bool:
        """Whether it has finished; Failure when it finished badly."""
        status = self.process.poll()
        if status:
            last = self.log.read_text(errors='replace').strip().split('\n')[-8:]
            raise Failure(
                f'{self.title} failed with exit status {status}. Its last words:\n'
                + ''.join(f'    {line}\n' for line in last)
                + f'The whole log: {self.log}'
            )
        return status == 0

    def seconds(self) -> float:
        return round(time.monotonic() - self.begin, 1)

    def progress(self) -> str:
        """The state that the log tells: '120/550, loss 0.93, 0:02:41 left'."""
        found = PROGRESS.findall(self.log.read_text(errors='replace'))
        if not found:
            return 'is starting'
        done, total, left, loss = found[-1]
        return f'{done}/{total}, ' + (f'loss {loss}, ' if loss else '') + f'{left} left'


def checkpoint_in(folder: Path) -> Path | None:
    """The last checkpoint of a training, if it is there."""
    note = folder / 'last_checkpoint'
    path = Path(note.read_text().strip()) if note.exists() else None
    return path if path and path.exists() else None


def run_task(
    task: Task, config: Path, folder: Path, options: list[str], lock: int
) -> Iterator[Step]:
    """Train, evaluate, draw: yields each step that was started, to be waited for.

    A step is left out if its outcome is in `folder`; one that runs makes those after it
    run again.
    """
    trained, tested = folder / 'trained.json', folder / 'tested.json'
    predictions, picture = folder / 'test/predictions', folder / f'{task.name}.png'
    if not trained.exists() or checkpoint_in(folder / 'train') is None:
        for outcome in (trained, tested, picture):
            outcome.unlink(missing_ok=True)
        resumed = any(folder.glob('train/*.pth'))
        command = [f'{ROOT}/tools/train.py', str(config), '--resume']
        command += [f'--work-dir={folder}/train', *options]
        title = f'{task.name}: {"go on training" if resumed else "train"} {task.method}'
        yield (step := Step(title, command, folder / 'train.log', lock))
        write_json(trained, dict(seconds=step.seconds(), resumed=resumed))
    if not tested.exists():
        picture.unlink(missing_ok=True)
        shutil.rmtree(folder / 'test', ignore_errors=True)
        command = [f'{ROOT}/tools/test.py', str(config)]
        command += [str(checkpoint_in(folder / 'train')), f'--work-dir={folder}/test']
        command += ['--cfg-options']
        command += [f'test_evaluator.{task.keep_predictions}={predictions}']
        title = f'{task.name}: evaluate the checkpoint'
        yield (step := Step(title, command, folder / 'test.log', lock))
        metrics = read_metrics(folder / 'test', task.metrics)
        write_json(tested, dict(metrics=metrics, seconds=step.seconds()))
    if not picture.exists():
        command = [f'{ROOT}/tools/analysis/draw_predictions.py', task.name]
        command += [f'--out={picture}', *(a.format(predictions) for a in task.draw)]
        yield Step(f'{task.name}: draw', command, folder / 'draw.log', lock)


def run_side_by_side(jobs: dict[str, Iterator[Step]]) -> int:
    """Run the steps of every job one after the other, and all jobs at the same time.

    Returns how many steps there were.
    """
    running: dict[str, Step] = {}
    steps = 0
    shown = 0.0
    try:
        while jobs:
            for name in list(jobs):
                if name not in running or running[name].done():
                    running.pop(name, None)
                    if step := next(jobs[name], None):
                        running[name] = step
                        steps += 1
                    else:
                        del jobs[name]
            if running and time.monotonic() - shown > (1 if LIVE else 15):
                shown = time.monotonic()
                states = [f'{name} {step.progress()}' for name, step in running.items()]
                say('    ' + ', '.join(states), passing=True)
            time.sleep(0.2)
        return steps
    finally:
        for step in running.values():
            step.process.terminate()
        for step in running.values():
            step.process.wait()


def take_lock(path: Path) -> int:
    """A descriptor that keeps a second demo out until all who inherit it are gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(
            f'another demo is running here (it holds {path}): wait until it has '
            'finished, or stop it'
        ) from None
    return lock


def make_data(images: list[int]) -> None:
    """Make the data unless they are there; says which."""
    from tools.demo.data import bring_up_to_date  # what it needs has been checked

    train, val = images
    try:
        say(bring_up_to_date(DATA, 0, dict(train=train, val=val)))
    except SystemExit as error:
        raise Failure(str(error)) from None


def collect(folder: Path, followed_from: dict) -> None:
    """Write results.json and results.md from what the tasks left in `folder`."""
    tasks = {}
    for task in TASKS:
        trained = json.loads((folder / task.name / 'trained.json').read_text())
        tested = json.loads((folder / task.name / 'tested.json').read_text())
        tasks[task.name] = dict(
            method=task.method,
            metrics=tested['metrics'],
            training_seconds=trained['seconds'],
            resumed=trained['resumed'],
            evaluation_seconds=tested['seconds'],
            checkpoint=str(checkpoint_in(folder / task.name / 'train')),
        )
    write_text(folder / 'results.md', table(tasks))
    write_json(folder / 'results.json', dict(followed_from=followed_from, tasks=tasks))


def changes_since_last(folder: Path, model: str, followed_from: dict) -> list[str]:
    """What differs between this run and the newest results of the same model."""
    earlier = RESULTS.glob(f'{model}-*/results.json')
    newest = max(earlier, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None or newest.parent == folder:
        return []
    before = json.loads(newest.read_text())['followed_from']
    return [key for key, value in followed_from.items() if before.get(key) != value]


def check_machine() -> None:
    """Failure if something is missing that the demo needs."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise Failure(
            f'{", ".join(absent)} cannot be imported by {sys.executable}. `make demo` '
            "installs all that is needed; by hand: pip install -e '.[onedl,dev]'"
        )
    free = shutil.disk_usage('.').free / GIGABYTE
    if free < FREE_GIGABYTES:
        raise Failure(
            f'{free:.2f} GB are free in {os.getcwd()}; the demo needs '
            f'{FREE_GIGABYTES} GB: free some space'
        )


def demo(args: argparse.Namespace) -> None:
    """Do whatever is missing, then show the results."""
    check_machine()
    lock = take_lock(RESULTS / 'lock')
    make_data(args.images)
    options = []
    if args.iterations:
        options = ['--cfg-options', f'train_cfg.max_iters={args.iterations}']
    configs = [CONFIGS / name for name in MODELS[args.model]]
    followed_from = fingerprint(args.model, configs, DATA, options)
    folder = RESULTS / f'{args.model}-{key_of(followed_from)}'
    if args.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    say(f'{args.model} on {followed_from["device"]}; everything goes to {folder}')
    if changed := changes_since_last(folder, args.model, followed_from):
        say(f'not what the last results follow from: {", ".join(changed)}')
    jobs = {
        task.name: run_task(task, config, folder / task.name, options, lock)
        for task, config in zip(TASKS, configs, strict=True)
    }
    if run_side_by_side(jobs):
        collect(folder, followed_from)
    else:
        say('all of it is there from an earlier run; --fresh does it again')
    say(f'done\n\n{(folder / "results.md").read_text()}')
    for task in TASKS:
        print(f'predictions beside the truth: {folder / task.name / task.name}.png')
    for task in TASKS:
        print(f'checkpoint: {checkpoint_in(folder / task.name / "train")}')
    print(f'table: {folder}/results.md and results.json\ndata: {DATA}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', choices=MODELS, default='spatial-mamba')
    parser.add_argument(
        '--fresh', action='store_true', help='forget results and unfinished trainings'
    )
    parser.add_argument(
        '--iterations', type=int, help='stop training early, for a quick look'
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs=2,
        default=[480, 100],
        metavar=('TRAIN', 'VAL'),
        help='how many pictures to generate for each data set',
    )
    try:
        demo(parser.parse_args())
    except Failure as failure:
        raise SystemExit(f'\ndemo: {failure}') from None
    except KeyboardInterrupt:
        raise SystemExit('\ndemo: stopped; run it again to go on from here') from None


if __name__ == '__main__':
    main()
