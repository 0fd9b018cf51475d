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

from mmssm.openmmlab.errors import UserError

WARM_UP = ('LinearLR', 'ConstantLR')
LONGEST_WARM_UP = 0.1  # of a run, in a schedule that is made to fit
LAST_MILESTONE = 0.9  # of a run, where the plan does not say how long it was to be
# arguments of schedulers that are spans in iterations or epochs
SPANS = ('T_max', 'step_size', 'periods', 'total_steps')
FITTED = (
    *WARM_UP,
    'MultiStepLR',
    'StepLR',
    'CosineAnnealingLR',
    'CosineRestartLR',
    'PolyLR',
    'OneCycleLR',
)
NOTHING = 1e-3  # of the optimizer's learning rate
NEVER = int(1e9)  # mmengine's default for the end of a scheduler


class Length(NamedTuple):
    """iterations: of the whole run.  per_epoch: of one pass over the data.

    epochs: how many, None in loops that count iterations, where schedulers that count
    epochs never act.
    """

    iterations: int
    per_epoch: int
    epochs: int | None = None


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
    warm_up = max((_warm_up(s, length) for s in schedulers), default=0)
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


def _unit(scheduler: Mapping, length: Length) -> int:
    """Iterations in one of the steps that a scheduler counts."""
    return length.per_epoch if scheduler.get('by_epoch', True) else 1


def _span(scheduler: Mapping, length: Length) -> tuple[int, int]:
    """Begin and end in iterations; an end that is not given is that of the run."""
    unit = _unit(scheduler, length)
    end = scheduler.get('end')
    end = length.iterations if end is None or end >= NEVER else end * unit
    return scheduler.get('begin', 0) * unit, end


def _kind(scheduler: Mapping) -> str:
    kind = scheduler.get('type')
    return str(getattr(kind, '__name__', kind)).split('.')[-1]


def _warm_up(scheduler: Mapping, length: Length) -> int:
    """Iterations until a scheduler has raised the rate from the start; 0 for others."""
    begin, end = _span(scheduler, length)
    low = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))
    rises = _kind(scheduler) in WARM_UP and low < scheduler.get('end_factor', 1.0)
    return end if rises and begin == 0 else 0


def _beyond(scheduler: Mapping, length: Length) -> Iterator[str]:
    """What of a scheduler lies beyond the end of the run."""
    kind, unit = _kind(scheduler), _unit(scheduler, length)
    begin, end = _span(scheduler, length)
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


def fit_schedule(schedulers: Sequence[Mapping], length: Length) -> list[dict]:
    """Schedulers whose positions are those of the plan, scaled to the run.

        p' = p * run / plan,   warm-up' = min(warm-up, run / 10)
    The plan ends where the last scheduler does; what follows the warm-up begins at the
    new end of it.  Schedulers that change count iterations.
    Raises UserError for a kind of scheduler that cannot be scaled.
    """
    for scheduler in schedulers:
        if _kind(scheduler) not in FITTED:
            raise UserError(
                f'--fit-schedule does not know {_kind(scheduler)} (it knows '
                f'{", ".join(FITTED)}); write its settings for this run yourself'
            )
    warm_up = max((_warm_up(s, length) for s in schedulers), default=0)
    others = [s for s in schedulers if not _warm_up(s, length)]
    plan = max((_plan(s, length) for s in others), default=length.iterations)
    longest = max(1, round(LONGEST_WARM_UP * length.iterations))
    scale = _Scale(length, plan, warm_up, min(warm_up, longest))
    return [scale.fitted(s) for s in schedulers]


def _plan(scheduler: Mapping, length: Length) -> int:
    """Iterations of the run that a scheduler was written for."""
    end = scheduler.get('end')
    if end is not None and end < NEVER:
        return end * _unit(scheduler, length)
    last = max(scheduler.get('milestones', (0,))) * _unit(scheduler, length)
    if last >= length.iterations:
        return round(last / LAST_MILESTONE)
    return length.iterations


class _Scale(NamedTuple):
    """From a plan of so many iterations to the run; the warm-up from old to new."""

    length: Length
    plan: int
    old: int
    new: int

    def position(self, place: float) -> int:
        if place == 0:
            return 0
        if place == self.old:
            return self.new
        if place >= self.plan:
            return self.length.iterations
        return max(self.new + 1, self.span(place))

    def span(self, iterations: float) -> int:
        return max(1, round(iterations * self.length.iterations / self.plan))

    def fitted(self, scheduler: Mapping) -> dict:
        unit = _unit(scheduler, self.length)
        acts = self.length.epochs is not None or unit == 1
        same = self.plan == self.length.iterations and self.old == self.new
        if same and acts:
            return dict(scheduler)
        found = dict(scheduler, by_epoch=False)
        found.pop('convert_to_iter_based', None)
        begin, end = _span(scheduler, self.length)
        found['begin'] = self.position(begin)
        found['end'] = max(found['begin'] + 1, self.position(end))
        if 'milestones' in scheduler:
            places = {self.position(m * unit) for m in scheduler['milestones']}
            found['milestones'] = sorted(places)
        for name in SPANS:
            if scheduler.get(name) is None:
                continue
            value = scheduler[name]
            if isinstance(value, Sequence):
                found[name] = [self.span(part * unit) for part in value]
            elif value * unit == end - begin:
                found[name] = found['end'] - found['begin']
            else:
                found[name] = self.span(value * unit)
        return found
