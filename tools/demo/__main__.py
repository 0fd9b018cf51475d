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
import importlib.util
import json
import os
import shutil
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
from tools.demo.steps import LIVE, Failure, Step, checkpoint_in, say, take_lock

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
NEEDED = ('torch', 'cv2', 'skimage', 'matplotlib', 'pycocotools', 'mmengine', 'mmssm')
GIGABYTE, FREE_GIGABYTES = 1e9, 0.5


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
