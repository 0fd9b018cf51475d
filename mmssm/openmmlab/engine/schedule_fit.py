"""A schedule that was written for another run, made to fit this one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
NEVER = int(1e9)  # mmengine's default for the end of a scheduler


class Length(NamedTuple):
    """iterations: of the whole run.  per_epoch: of one pass over the data.

    epochs: how many, None in loops that count iterations, where schedulers that count
    epochs never act.
    """

    iterations: int
    per_epoch: int
    epochs: int | None = None


def unit_of(scheduler: Mapping, length: Length) -> int:
    """Iterations in one of the steps that a scheduler counts."""
    return length.per_epoch if scheduler.get('by_epoch', True) else 1


def span_of(scheduler: Mapping, length: Length) -> tuple[int, int]:
    """Begin and end in iterations; an end that is not given is that of the run."""
    unit = unit_of(scheduler, length)
    end = scheduler.get('end')
    end = length.iterations if end is None or end >= NEVER else end * unit
    return scheduler.get('begin', 0) * unit, end


def kind_of(scheduler: Mapping) -> str:
    kind = scheduler.get('type')
    return str(getattr(kind, '__name__', kind)).split('.')[-1]


def warm_up_of(scheduler: Mapping, length: Length) -> int:
    """Iterations until a scheduler has raised the rate from the start; 0 for others."""
    begin, end = span_of(scheduler, length)
    low = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))
    rises = kind_of(scheduler) in WARM_UP and low < scheduler.get('end_factor', 1.0)
    return end if rises and begin == 0 else 0


def fit_schedule(schedulers: Sequence[Mapping], length: Length) -> list[dict]:
    """Schedulers whose positions are those of the plan, scaled to the run.

        p' = p * run / plan,   warm-up' = min(warm-up, run / 10)
    The plan ends where the last scheduler does; what follows the warm-up begins at the
    new end of it.  Schedulers that change count iterations.
    Raises UserError for a kind of scheduler that cannot be scaled.
    """
    for scheduler in schedulers:
        if kind_of(scheduler) not in FITTED:
            raise UserError(
                f'--fit-schedule does not know {kind_of(scheduler)} (it knows '
                f'{", ".join(FITTED)}); write its settings for this run yourself'
            )
    warm_up = max((warm_up_of(s, length) for s in schedulers), default=0)
    others = [s for s in schedulers if not warm_up_of(s, length)]
    plan = max((_plan(s, length) for s in others), default=length.iterations)
    longest = max(1, round(LONGEST_WARM_UP * length.iterations))
    scale = _Scale(length, plan, warm_up, min(warm_up, longest))
    return [scale.fitted(s) for s in schedulers]


def _plan(scheduler: Mapping, length: Length) -> int:
    """Iterations of the run that a scheduler was written for."""
    end = scheduler.get('end')
    if end is not None and end < NEVER:
        return end * unit_of(scheduler, length)
    last = max(scheduler.get('milestones', (0,))) * unit_of(scheduler, length)
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
        unit = unit_of(scheduler, self.length)
        acts = self.length.epochs is not None or unit == 1
        same = self.plan == self.length.iterations and self.old == self.new
        if same and acts:
            return dict(scheduler)
        found = dict(scheduler, by_epoch=False)
        found.pop('convert_to_iter_based', None)
        begin, end = span_of(scheduler, self.length)
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
