"""What a schedule will do to a run of a certain length, and one that fits the run."""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.optim import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmssm.openmmlab.engine.schedule_fit import (
    WARM_UP,
    Length,
    fit_schedule,
    kind_of,
    span_of,
    unit_of,
    warm_up_of,
)
from mmssm.openmmlab.errors import UserError

NOTHING = 1e-3  # of the optimizer's learning rate


class Course(NamedTuple):
    """Learning rates of a run: at its first and last iteration, and the highest.

    idle_from: the first iteration of those at the end with next to no rate.
    """

    first: float
    highest: float
    last: float
    idle_from: int | None


def prepare_schedule(runner: Runner, fit: bool = False) -> None:
    """Log what the schedule will do to the run; before `runner.train()`.

    fit: first change warm-up, milestones and ends so that they fit, see `fit_schedule`.
    Raises UserError where `fit` has nothing to change.
    """
    length = _length(runner)
    planned = runner.cfg.get('param_scheduler') or []
    if fit and not planned:
        raise UserError('--fit-schedule: the config has no param_scheduler to fit')
    if isinstance(planned, Mapping) and 'type' not in planned:
        if fit:
            raise UserError(
                '--fit-schedule: param_scheduler has a part for each of several '
                'optimizers; write begin, end and milestones for this run yourself'
            )
        return
    schedulers = [planned] if isinstance(planned, Mapping) else list(planned)
    if fit:
        schedulers = [ConfigDict(s) for s in fit_schedule(schedulers, length)]
        runner.cfg.param_scheduler = schedulers
        runner.param_schedulers = copy.deepcopy(schedulers)
        runner.dump_config()
        runner.logger.info(f'--fit-schedule: {schedulers}')
    rate = _base_rate(runner)
    if rate is not None:
        line, concerns = describe(schedulers, rate, length)
        runner.logger.info(line)
        for concern in concerns:
            runner.logger.warning(concern)


def _length(runner: Runner) -> Length:
    loader = runner.train_loop.dataloader
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return Length(runner.max_iters, len(loader), runner.max_epochs)
    # an endless sampler has the length of the data on every rank
    at_once = (loader.batch_size or 1) * get_world_size()
    per_epoch = max(1, math.ceil(len(loader.dataset) / at_once))
    return Length(runner.max_iters, per_epoch)


def _base_rate(runner: Runner) -> float | None:
    """Learning rate of the optimizer before any schedule; None for several."""
    rate = ((runner.cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    if not isinstance(rate, int | float):
        return None
    scaling = runner.auto_scale_lr or {}
    size = getattr(runner.train_loop.dataloader, 'batch_size', None)
    if scaling.get('enable') and size:
        rate *= size * get_world_size() / scaling['base_batch_size']
    return float(rate)


def describe(
    schedulers: Sequence[Mapping], rate: float, length: Length
) -> tuple[str, list[str]]:
    """A line that says what schedulers do to a run, and what in them will not happen.

    rate: learning rate of the optimizer.
    """
    course = simulate(schedulers, rate, length)
    warm_up = max((warm_up_of(s, length) for s in schedulers), default=0)
    passes = length.iterations / length.per_epoch
    line = (
        f'schedule: {length.iterations} iterations ({passes:.3g} passes over the data)'
    )
    if warm_up:
        share = 100 * warm_up / length.iterations
        line += f'; warm-up {warm_up} ({share:.3g} % of the run)'
    line += (
        f'; learning rate {course.first:.3g} at first, at most {course.highest:.3g}, '
        f'{course.last:.3g} at last (optimizer: {rate:.3g})'
    )
    concerns = [c for s in schedulers for c in _beyond(s, length)]
    if warm_up > length.iterations:
        concerns.insert(
            0,
            f'the warm-up of {warm_up} iterations is longer than the run of '
            f'{length.iterations}: the learning rate never leaves '
            f'{100 * course.highest / rate:.3g} % of {rate:.3g}',
        )
    if course.idle_from is not None and course.idle_from < 0.95 * length.iterations:
        concerns.append(
            f'the learning rate is below {NOTHING * rate:.3g} from iteration '
            f'{course.idle_from} of {length.iterations} on: the rest changes nothing'
        )
    if concerns:
        concerns[-1] += (
            '. --fit-schedule (or begin, end and milestones in param_scheduler) makes '
            'it fit the run'
        )
    return line, concerns


def simulate(schedulers: Sequence[Mapping], rate: float, length: Length) -> Course:
    """Let mmengine's schedulers take every step of a run, without a model."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=rate, momentum=0.9)
    group = optimizer.param_groups[0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        built = [_build(scheduler, optimizer, length) for scheduler in schedulers]
        own = [s for s in built if s is not None and s.param_name == 'lr']
        optimizer.step()
        rates = [group['lr']]
        steps = [s for s in own if not s.by_epoch]
        passes = [s for s in own if s.by_epoch] if length.epochs is not None else []
        for done in range(1, length.iterations):
            steps = [s for s in steps if done <= s.end]
            for scheduler in steps:
                scheduler.step()
            if done % length.per_epoch == 0:
                for scheduler in passes:
                    scheduler.step()
            rates.append(group['lr'])
    moving = (i for i, r in enumerate(reversed(rates)) if r > NOTHING * rate)
    idle = next(moving, len(rates))
    idle_from = len(rates) - idle if idle else None
    return Course(rates[0], max(rates), rates[-1], idle_from)


def _build(
    scheduler: Mapping, optimizer: torch.optim.Optimizer, length: Length
) -> _ParamScheduler | None:
    """The scheduler as mmengine's runner builds it; None for one that needs metrics."""
    settings = copy.deepcopy(dict(scheduler))
    by_epoch = settings.get('by_epoch', True)
    end = length.epochs if by_epoch else length.iterations
    settings.setdefault('end', end or length.iterations)
    if str(settings.get('type')).startswith('ReduceOnPlateau'):
        return None
    extra = dict(optimizer=optimizer, epoch_length=length.per_epoch)
    return PARAM_SCHEDULERS.build(settings, default_args=extra)


def _beyond(scheduler: Mapping, length: Length) -> Iterator[str]:
    """What of a scheduler lies beyond the end of the run."""
    kind, unit = kind_of(scheduler), unit_of(scheduler, length)
    begin, end = span_of(scheduler, length)
    ignored = scheduler.get('by_epoch', True) and length.epochs is None
    if ignored and not scheduler.get('convert_to_iter_based'):
        yield (
            f'{kind} counts epochs (by_epoch=True), which a loop of iterations does '
            'not have: it never acts; write by_epoch=False and iterations'
        )
        return
    late = [m for m in scheduler.get('milestones', ()) if m * unit >= length.iterations]
    counted = 'epochs' if unit > 1 or scheduler.get('by_epoch', True) else 'iterations'
    total = length.iterations / unit
    if late:
        yield (
            f'{kind}: milestones {late} ({counted}) lie beyond the run of {total:g}: '
            'the learning rate does not fall there'
        )
    elif begin >= length.iterations:
        yield f'{kind} begins at iteration {begin}, after the end of the run'
    elif end > 1.01 * length.iterations and kind not in ('MultiStepLR', *WARM_UP):
        yield (
            f'{kind} is to end at iteration {end}, but the run has '
            f'{length.iterations}: the learning rate stops on the way'
        )
