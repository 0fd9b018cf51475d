"""Kill a training at any moment, resume it, and look at what it left.

    PYTHONPATH=.:tests python -m tools.reliability.killed KIND COUNT SEED SECONDS

KIND: `moment`, a random one, or `saving`, while a checkpoint is written.  The last line
is JSON: how many were tried, the failures, how many left a half-written file.  This
process imports everything once, and each training is a fork of it.
"""

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
import zipfile
from importlib import import_module
from pathlib import Path

import torch

from mmssm.openmmlab import cli
from mmssm.openmmlab.engine.loading import read_checkpoint, use_safe_loading
from tools.reliability.check import Clock

FORK = multiprocessing.get_context('fork')
ITERATIONS, INTERVAL = 8, 2
CHANGES = [
    f'train_cfg.max_iters={ITERATIONS}',
    f'train_cfg.val_interval={2 * INTERVAL}',
    f'default_hooks.checkpoint.interval={INTERVAL}',
    'default_hooks.checkpoint.max_keep_ckpts=2',
    'model.backbone.arch.channels=32',  # a file that takes a moment to write
    'model.decode_head.in_channels=[32,64,128,256]',
]
LEFT = '.*.tmp'


class Trainings:
    """Trainings of one config in folders of their own, and the one nobody disturbed."""

    def __init__(self, folder: Path) -> None:
        tiny = import_module('openmmlab.engine.tiny')
        tiny.write_data(folder / 'data')
        self.config = tiny.write_config(folder, 'segmentation')
        self.folder = folder
        start = time.monotonic()
        process = self.start('whole')
        process.join()
        self.seconds = time.monotonic() - start
        if process.exitcode:
            raise RuntimeError(f'a training ended with {self.log("whole")}')
        self.losses = losses(folder / 'whole')
        self.weights = self.last('whole')

    def start(self, name: str, *flags: str) -> multiprocessing.Process:
        """A training that runs."""
        arguments = [str(self.config), '--work-dir', str(self.folder / name), *flags]
        arguments += ['--cfg-options', *CHANGES]
        process = FORK.Process(
            target=_train, args=(arguments, self.folder / f'{name}.log')
        )
        process.start()
        return process

    def log(self, name: str) -> str:
        """The end of what a training printed."""
        return (self.folder / f'{name}.log').read_text()[-1500:]

    def last(self, name: str) -> dict[str, torch.Tensor]:
        """The weights that a training ended with."""
        path = self.folder / name / f'iter_{ITERATIONS}.pth'
        return read_checkpoint(str(path))['state_dict']


def main(argv: list[str]) -> int:
    """Kill and resume as often as there is time."""
    kind, count, seed, seconds = argv[0], int(argv[1]), int(argv[2]), float(argv[3])
    import_module('mmseg.models')
    use_safe_loading()
    dice, clock = random.Random(seed), Clock(seconds)
    failures, tried, halves = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        trainings = Trainings(Path(name))
        for number in clock.counts(count):
            moment = kill_one(trainings, str(number), kind, dice)
            work_dir = Path(name, str(number))
            halves += any(work_dir.glob(LEFT))
            said = f'{kind} {number}, killed {moment}'
            failures += [f'{said}: {fault}' for fault in broken(work_dir)]
            failures += [
                f'{said}, resumed: {fault}' for fault in resume(trainings, str(number))
            ]
            tried += 1
    found = {'tried': tried, 'failures': failures, 'halves': halves}
    print(json.dumps(found))
    return 0


def kill_one(trainings: Trainings, name: str, kind: str, dice: random.Random) -> str:
    """Start a training, kill it, and say when."""
    process = trainings.start(name)
    start = time.monotonic()
    if kind == 'saving':
        wanted = dice.randrange(ITERATIONS // INTERVAL)
        _wait_for_file(process, trainings.folder / name, wanted)
        moment = f'in save {wanted + 1}'
    else:
        wait = dice.uniform(0, trainings.seconds)
        process.join(wait)
        moment = f'after {wait:.2f} s'
    process.kill()
    process.join()
    took = time.monotonic() - start
    return f'{moment} ({took:.2f} of {trainings.seconds:.2f} s)'


def resume(trainings: Trainings, name: str) -> list[str]:
    """Go on to the end; what is wrong with it."""
    work_dir = trainings.folder / name
    stood = saved(work_dir)
    before = {path.parent.parent for path in _logs(work_dir)}
    process = trainings.start(name, '--resume')
    process.join()
    if process.exitcode:
        return [f'ended with {process.exitcode}: {trainings.log(name)}']
    faults = broken(work_dir)
    faults += [f'{path.name} is left over' for path in work_dir.rglob(LEFT)]
    run = losses(work_dir, before)
    if list(run) != [*range(stood + 1, ITERATIONS + 1)]:
        faults.append(f'iterations {list(run)} after {stood} that were saved')
    if run != {step: trainings.losses[step] for step in run}:
        faults.append(f'losses {run}, undisturbed {trainings.losses}')
    note = (work_dir / 'last_checkpoint').read_text().strip()
    if Path(note).name != f'iter_{ITERATIONS}.pth':
        faults.append(f'last_checkpoint names {note}')
    weights = trainings.weights
    last = trainings.last(name)
    if not all(torch.equal(last[key], weights[key]) for key in weights):
        faults.append('other weights than the undisturbed training')
    return faults


def broken(work_dir: Path) -> list[str]:
    """Checkpoints that are not whole, and notes of what is not there."""
    faults = []
    for path in sorted(work_dir.glob('*.pth')):
        try:
            read_checkpoint(str(path))
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
            faults.append(f'{path.name}: {error}')
    note = work_dir / 'last_checkpoint'
    if note.is_file() and not zipfile.is_zipfile(note.read_text().strip()):
        faults.append(f'last_checkpoint names {note.read_text()!r}')
    return faults


def saved(work_dir: Path) -> int:
    """The last iteration that is on disk; 0 for none."""
    found = [
        int(path.stem.removeprefix('iter_')) for path in work_dir.glob('iter_*.pth')
    ]
    return max(found, default=0)


def losses(work_dir: Path, but: set[Path] = frozenset()) -> dict[int, float]:
    """Iteration -> loss; a killed process may have left half a line."""
    found = {}
    for path in _logs(work_dir):
        lines = path.read_text().splitlines() if path.parent.parent not in but else ()
        entries = [json.loads(line) for line in lines]
        found.update({e['step']: e['loss'] for e in entries if 'loss' in e})
    return found


def _logs(work_dir: Path) -> list[Path]:
    return sorted(work_dir.glob('*/vis_data/scalars.json'))


def _wait_for_file(
    process: multiprocessing.Process, work_dir: Path, others: int
) -> None:
    """Until a temporary checkpoint is there, after so many other ones."""
    seen = set()
    while process.is_alive():
        seen |= {name for name in _names(work_dir) if name.endswith('.tmp')}
        if len({name for name in seen if '.pth.' in name}) > others:
            return


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _train(arguments: list[str], log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    try:
        cli.train(arguments)
    except SystemExit as stop:
        text = stop.code if isinstance(stop.code, str) else ''
        os.write(2, text.encode())
        os._exit(1 if text else stop.code or 0)
    except BaseException:  # noqa: BLE001 (told in the log)
        os.write(2, traceback.format_exc().encode())
        os._exit(1)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
