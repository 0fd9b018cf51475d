"""Long trainings: memory, files and time stay where they were; no value is infinite."""

import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import linear_regression, median

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

import mmssm.registry  # noqa: F401 (registers the backbones)
from tools.reliability.check import ROOT, Check, Clock, Outcome, python

STEPS = 100_000  # as many as two hours have
MODELS = ('mila', 'spatialmamba', 'swin-ssm2d', 'vmamba', 'vminet')
DEMO = 2_000  # steps of a demo model
# MB per 1000 steps, and what that has to come to in a run, which may be a short one
SLOPE, GROWTH = 5.0, 25.0
SLOWER = 1.5
LEAST, TREND = 30, 300  # steps of a training, and to tell what grows
TRAINING = """
custom_imports = dict(imports=['tools.reliability.loaded'])
custom_hooks = [
    dict(type='LoadHook', seconds={seconds}, least={least}, file='{file}'),
]
train_cfg.update(max_iters={steps}, val_interval={every})
default_hooks['checkpoint'].update(interval={every}, max_keep_ckpts=1)
default_hooks['logger'].update(interval=50)
for loader in (train_dataloader, val_dataloader):
    loader.update(num_workers={workers}, persistent_workers={workers} > 0)
"""


def checks() -> list[Check]:
    """The demo's models in two precisions; trainings with 0, 2 and 8 workers.

    The trainings use all the time that there is, hence they come last.
    """
    return [
        *(
            Check('Load', f'`{model}`, {name}', partial(_steps, model, dtype), DEMO)
            for model in MODELS
            for name, dtype in (('float32', None), ('bfloat16', torch.bfloat16))
        ),
        *(
            Check(
                'Load',
                f'training and evaluation, {workers} workers',
                partial(_train, workers),
                STEPS,
                2,
            )
            for workers in (0, 2, 8)
        ),
    ]


def _train(workers: int, clock: Clock, seed: int, every: int = 100) -> Outcome:
    """The command, as long as there is time; it validates and saves now and then."""
    with tempfile.TemporaryDirectory() as name:
        lines = Path(name, 'lines')
        config = _config(
            Path(name), workers, seconds=clock.left, every=every, file=lines
        )
        options = [f'--work-dir={name}/run', f'--cfg-options=randomness.seed={seed}']
        done = python('tools/train.py', config, *options)
        if done.returncode:
            return Outcome(0, [f'the training ended with {done.stderr[-2000:]}'])
        return judged([json.loads(line) for line in lines.read_text().splitlines()])


def _config(folder: Path, workers: int, **values: object) -> Path:
    script = (
        'import sys; from pathlib import Path; from openmmlab.engine import tiny; '
        "root = Path(sys.argv[1]); tiny.write_data(root / 'data'); "
        "tiny.write_config(root, 'segmentation')"
    )
    python('-c', script, folder).check_returncode()
    path = folder / 'segmentation.py'
    text = TRAINING.format(workers=workers, steps=STEPS, least=LEAST, **values)
    path.write_text(path.read_text() + text)
    return path


def judged(lines: Sequence[Sequence[float]]) -> Outcome:
    """Lines of `loaded.LoadHook`; the first third is the warm-up of the memory."""
    numbers, memory, files, seconds, losses = zip(*lines, strict=True)
    failures = [
        f'step {number}: the loss is {loss}'
        for number, loss in zip(numbers, losses, strict=True)
        if not math.isfinite(loss)
    ]
    if len(lines) < TREND:
        return Outcome(len(lines), failures, 'too short to tell what grows')
    third = len(lines) // 3
    slope = 1000 * linear_regression(numbers[third:], memory[third:]).slope
    growth = slope * (numbers[-1] - numbers[third]) / 1000
    slower = median(seconds[-third:]) / median(seconds[:third])
    more = max(files[-third:]) - max(files[:third])
    if slope > SLOPE and growth > GROWTH:
        failures.append(f'memory grows by {slope:.1f} MB in 1000 steps')
    if slower > SLOWER:
        failures.append(f'steps take {slower:.2f} times as long in the last third')
    if more > 2:
        failures.append(f'{more} more files are open in the last third')
    remark = (
        f'memory {slope:+.2f} MB in 1000 steps, last third of the steps {slower:.2f} '
        f'times as long as the first, open files {more:+d}'
    )
    return Outcome(len(lines), failures, remark)


def _steps(
    model: str, dtype: torch.dtype | None, clock: Clock, seed: int, most: int = DEMO
) -> Outcome:
    """Steps of the demo's segmenter on random maps of squares."""
    torch.manual_seed(seed)
    cfg = Config.fromfile(ROOT / f'configs/demo/{model}-demo_upernet_shapes.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        network = _network(cfg)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    tried = 0
    for number in clock.counts(most):
        context = torch.autocast('cpu', dtype) if dtype else nullcontext()
        with context:
            loss, _ = network.parse_losses(network(**_batch(), mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        tried = number + 1
        if not (loss.isfinite() and norm.isfinite()):
            fault = f'step {tried}: loss {loss.item()}, norm of the gradient {norm}'
            return Outcome(tried, [fault])
        optimizer.step()
    return Outcome(tried, [])


def _network(cfg: Config) -> torch.nn.Module:
    import mmseg.models  # noqa: F401 (registers them)
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS as SEGMENTERS

    network = revert_sync_batchnorm(SEGMENTERS.build(ConfigDict(cfg.model)))
    network.init_weights()
    return network.train()


def _batch() -> dict[str, object]:
    """Squares whose colour tells the class, as it does in the demo."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, 4, (2, 1, 4, 4)).repeat_interleave(16, 2)
    labels = labels.repeat_interleave(16, 3)
    samples = []
    for label in labels:
        sample = SegDataSample(metainfo={'img_shape': (64, 64)})
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return {
        'inputs': labels - 1.5 + torch.randn(2, 3, 64, 64) / 2,
        'data_samples': samples,
    }
