"""What arguments may be: rules in words, checked before anything is allocated.

A rule looks at a value, and at the other arguments, and says what was expected where
the value does not fit.  A table has a rule for each argument; `checked` puts it before
a constructor.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

Given = Mapping[str, Any]
Rule = Callable[[Any, Given], str | None]
F = TypeVar('F', bound=Callable)

# A larger map of one number would not fit into the memory of any machine.
WIDEST = 65536


def checked(rules: Mapping[str, Rule]) -> Callable[[F], F]:
    """Check the arguments of a function, or of a constructor, by a table.

    The function then raises ValueError for a value that does not fit, with its name
    and what was expected, and TypeError for an argument that it does not have.  Rules
    are asked in the order of the table, those of later ones may rely on earlier ones.
    """

    def around(function: F) -> F:
        signature = inspect.signature(function)
        owner = function.__qualname__.removesuffix('.__init__')

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            refuse_unknown(owner, kwargs, signature.parameters)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            check(given.arguments, rules)
            return function(*args, **kwargs)

        call.rules = rules
        return call

    return around


def check(given: Given, rules: Mapping[str, Rule]) -> None:
    """Raise ValueError for the first value that its rule refuses."""
    for name, rule in rules.items():
        expected = rule(given[name], given)
        if expected is not None:
            raise ValueError(f'{name} is {shown(given[name])}; expected {expected}')


def refuse_unknown(owner: str, given: Given, known: Sequence[str] | Mapping) -> None:
    """Raise TypeError for a name that is not one of the known arguments."""
    known = [name for name in known if name != 'self']
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f' Did you mean {close[0]!r}?' if close else ''
            raise TypeError(
                f'{owner} has no argument {name!r}.{hint} It takes {", ".join(known)}'
            )


def shown(value: object, most: int = 120) -> str:
    """repr of a value, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f'{text[:most]} …'


def is_integer(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    """An integer within the bounds; True and False are none."""
    number = isinstance(value, Integral) and not isinstance(value, bool)
    return number and low <= value <= high


def is_sequence(value: object) -> bool:
    """A list, a tuple or the like, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def integer(low: int = 1, high: int = WIDEST) -> Rule:
    """An integer from low to high."""

    def rule(value: object, given: Given) -> str | None:
        return None if is_integer(value, low, high) else words

    words = f'an integer from {low} to {high}'
    return rule


def number(low: float, high: float = math.inf, below: bool = False) -> Rule:
    """A finite number from low to high; below: high itself is too much."""

    def rule(value: object, given: Given) -> str | None:
        real = isinstance(value, Real) and not isinstance(value, bool)
        fits = real and math.isfinite(value) and low <= value <= high
        return None if fits and not (below and value == high) else words

    end = 'up' if high == math.inf else f'{"to below" if below else "to"} {high}'
    words = f'a finite number from {low} {end}'
    return rule


def flag(value: object, given: Given) -> str | None:
    """True or False."""
    return None if isinstance(value, bool) else 'True or False'


def choice(*values: object) -> Rule:
    """One of the values."""

    def rule(value: object, given: Given) -> str | None:
        fits = any(type(value) is type(one) and value == one for one in values)
        return None if fits else words

    words = f'one of {", ".join(map(repr, values))}'
    return rule


def optional(other: Rule) -> Rule:
    """None, or what another rule accepts."""

    def rule(value: object, given: Given) -> str | None:
        expected = None if value is None else other(value, given)
        return expected and f'None or {expected}'

    return rule


def size(high: int) -> Rule:
    """An integer from 1 to high, or (height, width) of them."""

    def rule(value: object, given: Given) -> str | None:
        pair = value if is_sequence(value) else [value, value]
        fits = len(pair) == 2 and all(is_integer(n, 1, high) for n in pair)
        return None if fits else words

    words = f'an integer from 1 to {high}, or (height, width) of such'
    return rule


def integers(low: int, high: int) -> Rule:
    """A sequence of one or more integers from low to high."""

    def rule(value: object, given: Given) -> str | None:
        fits = is_sequence(value) and len(value) > 0
        return None if fits and all(is_integer(n, low, high) for n in value) else words

    words = f'a sequence of one or more integers from {low} to {high}'
    return rule
