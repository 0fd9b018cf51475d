"""What a run says before its first iteration: what a person needs, on one screen.

mmengine tells several hundred lines first.  All of them stay in the log file.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmssm.openmmlab.engine.wrappers import unwrapped
from mmssm.registry import HOOKS

COMMAND = 'command: '
# how records begin that go to the log file alone
FOR_THE_FILE = (
    COMMAND,
    '-----',  # the environment
    'Config:',
    'Hooks will be executed in the following order',
    'paramwise_options',
    'Distributed training is not used, all SyncBatchNorm',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    '`save_param_scheduler` is True but',
    'Checkpoints will be saved to',
    'Exp name:',
)
ENDS = ('is skipped since its requires_grad=False',)  # a line for each frozen weight
# how warnings of other packages begin that nobody can do anything about
MEANINGLESS = (
    'Default ``avg_non_ignore`` is False',
    'The draw is False',
    '`torch.jit',
)
ALREADY = '_mmssm_short'


def use_short_beginning() -> None:
    """Keep the console of runners to what `FOR_THE_FILE` leaves, in this process."""
    for text in MEANINGLESS:
        warnings.filterwarnings('ignore', message=text)
    plain = Runner.build_logger
    if hasattr(plain, ALREADY):
        return

    def build_logger(self: Runner, *args: Any, **options: Any) -> MMLogger:
        logger = plain(self, *args, **options)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_for_people)
        return logger

    setattr(build_logger, ALREADY, True)
    Runner.build_logger = build_logger


def is_for_people(record: logging.LogRecord) -> bool:
    """Whether a record goes to the console, too."""
    text = record.getMessage().strip()
    return not (text.startswith(FOR_THE_FILE) or text.endswith(ENDS))


@HOOKS.register_module()
class SummaryHook(Hook):
    """Says in five lines what is trained, on what, for how long, where, and whereto."""

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        lines = (
            ('model', model_line(runner)),
            ('data', data_line(runner)),
            ('schedule', schedule_line(runner)),
            ('device', device_line(runner)),
            ('into', runner.work_dir),
        )
        text = ''.join(f'\n  {name:<9} {line}' for name, line in lines)
        runner.logger.info(f'training begins{text}')


def model_line(runner: Runner) -> str:
    """Names of model and backbone, and how many parameters learn."""
    model = unwrapped(runner.model)
    backbone = getattr(model, 'backbone', None)
    name = type(model).__name__
    name += f' with {type(backbone).__name__}' if backbone is not None else ''
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    every, learning = (sum(n for n, g in counts if g or a) for a in (True, False))
    frozen = f', of which {(every - learning) / 1e6:.2f} M are frozen'
    return f'{name}: {every / 1e6:.2f} M parameters' + (frozen * (every > learning))


def data_line(runner: Runner) -> str:
    """Kind and number of samples, and how batches are made of them."""
    loader = runner.train_dataloader
    kind, batch = type(loader.dataset).__name__, loader.batch_size
    batch = batch or getattr(loader.batch_sampler, 'batch_size', 0)
    count = len(loader.dataset) if hasattr(loader.dataset, '__len__') else 'endless'
    text = f'{kind}: {count} samples, {batch} for each of {runner.world_size} processes'
    config = runner.cfg.get('optim_wrapper') or {}
    steps = config.get('accumulative_counts', 1)
    return text + (f', gradients of {steps} batches added up' if steps > 1 else '')


def schedule_line(runner: Runner) -> str:
    """Length, optimizer and learning rates."""
    length = f'{runner.max_iters} iterations'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        length = f'{runner.max_epochs} epochs, {length}'
    begun = f', from {runner.iter} on' if runner.iter else ''
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if optimizer is None:
        return f'{length}{begun}'
    rates = {group.get('initial_lr', group['lr']) for group in optimizer.param_groups}
    text = ' to '.join(f'{rate:.3g}' for rate in sorted({min(rates), max(rates)}))
    return f'{length}{begun}; {type(optimizer).__name__}, learning rate {text}'


def device_line(runner: Runner) -> str:
    """The device and the precision."""
    device = get_device()
    if device == 'cuda':
        device = torch.cuda.get_device_name()
    wrapper = type(runner.optim_wrapper).__name__
    kinds = {'BFloat16OptimWrapper': 'bfloat16', 'Float16OptimWrapper': 'float16'}
    precision = kinds.get(wrapper, 'float32')
    if wrapper == 'AmpOptimWrapper':
        precision = (runner.cfg.optim_wrapper.get('dtype') or 'float16').lower()
    precision += ', mixed' * (precision != 'float32')
    log = Path(runner.log_dir, f'{Path(runner.log_dir).name}.log')
    return f'{device}, {precision}; config, environment and hooks are in {log}'
