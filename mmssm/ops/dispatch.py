"""Choice of an implementation by name, or of the first that can run."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from mmssm.ops import counting


class Implementation(NamedTuple):
    """One way to compute an op.

    `requires()` looks at the environment and `why_not(*inputs)` at the inputs; both
    return None when all is well and otherwise the reason in words.  Where
    `suits(*inputs)` is false it can run, but only who asks for it by name gets it.
    `settled(*inputs)` is true where one look tells that all three let it run.
    """

    name: str
    run: Callable[..., Any]
    requires: Callable[[], str | None] = lambda: None
    why_not: Callable[..., str | None] = lambda *inputs: None
    suits: Callable[..., bool] = lambda *inputs: True
    settled: Callable[..., bool] = lambda *inputs: False


_OPS: dict[str, tuple[Implementation, ...]] = {}
_COSTS: dict[str, counting.Cost] = {}


def register(
    op: str,
    implementations: Sequence[Implementation],
    macs: Callable[..., int] | counting.Cost | None = None,
) -> None:
    """Make the implementations of `op` known, the preferred one first.

    macs(*inputs), of what the implementations are called with: multiply-accumulates of
    a call; a `Cost` where the result is not shaped as the first of the inputs.  Without
    it a count known before stays; an op that has none is computed while others are
    counted, and counts what torch sees of it.
    """
    _OPS[op] = tuple(implementations)
    if macs is not None:
        _COSTS[op] = macs if isinstance(macs, counting.Cost) else counting.Cost(macs)


def cost(op: str) -> counting.Cost | None:
    """What was registered as the op's count."""
    return _COSTS.get(op)


def registered() -> dict[str, tuple[Implementation, ...]]:
    """All ops with their implementations, in order of preference."""
    return dict(_OPS)


def choose(op: str, backend: str | None, *inputs: Any) -> Callable[..., Any]:
    """The function that computes `op` on `inputs`.

    backend None takes the first implementation that can run and suits the inputs; a
    name is obeyed.  Where operators are counted it counts, whichever backend is asked
    for.
    Raises ValueError for an unknown name and RuntimeError, with the reason of every
    candidate, when what was asked for cannot run.
    """
    known = _OPS[op]
    counted = counting.is_counting() and op in _COSTS
    if backend is None and not counted and known[0].settled(*inputs):
        return known[0].run
    candidates = [c for c in known if backend in (None, c.name)]
    if not candidates:
        names = ', '.join(repr(c.name) for c in known)
        raise ValueError(
            f'{op} has no backend {backend!r}; expected None or one of {names}'
        )
    if counted:
        return partial(_COSTS[op].count, op)
    reasons = []
    for candidate in candidates:
        if backend is None and not candidate.suits(*inputs):
            reasons.append(f'{candidate.name}: only by name on these inputs')
            continue
        reason = candidate.requires() or candidate.why_not(*inputs)
        if reason is None:
            return candidate.run
        reasons.append(f'{candidate.name}: {reason}')
    hint = '' if backend is None else '; backend=None takes one that can run'
    raise RuntimeError(f'no backend of {op} can run here ({"; ".join(reasons)}){hint}')
