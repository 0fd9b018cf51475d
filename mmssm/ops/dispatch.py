"""Choice of an implementation by name, or of the first that can run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Implementation(NamedTuple):
    """One way to compute an op.

    `requires()` looks at the environment and `why_not(*inputs)` at the inputs; both
    return None when all is well and otherwise the reason in words.  Where
    `suits(*inputs)` is false it can run, but only who asks for it by name gets it.
    """

    name: str
    run: Callable[..., Any]
    requires: Callable[[], str | None] = lambda: None
    why_not: Callable[..., str | None] = lambda *inputs: None
    suits: Callable[..., bool] = lambda *inputs: True


_OPS: dict[str, tuple[Implementation, ...]] = {}


def register(op: str, implementations: Sequence[Implementation]) -> None:
    """Make the implementations of `op` known, the preferred one first."""
    _OPS[op] = tuple(implementations)


def registered() -> dict[str, tuple[Implementation, ...]]:
    """All ops with their implementations, in order of preference."""
    return dict(_OPS)


def choose(op: str, backend: str | None, *inputs: Any) -> Callable[..., Any]:
    """The function that computes `op` on `inputs`.

    backend None takes the first implementation that can run and suits the inputs; a
    name is obeyed.
    Raises ValueError for an unknown name and RuntimeError, with the reason of every
    candidate, when what was asked for cannot run.
    """
    known = _OPS[op]
    candidates = [c for c in known if backend in (None, c.name)]
    if not candidates:
        names = ', '.join(repr(c.name) for c in known)
        raise ValueError(
            f'{op} has no backend {backend!r}; expected None or one of {names}'
        )
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
