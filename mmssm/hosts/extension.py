"""Methods put around those of one module, whose class stays what it is to the user."""

import functools

from torch import nn


def extend(module: nn.Module, mixin: type) -> None:
    """Let the methods of the mixin go first in this module, in place.

    Its class becomes a subclass of the same name, made once for each pair; the module
    copies and pickles, which takes the two classes and no class that only lives here.
    """
    module.__class__ = _extended(mixin, type(module))


@functools.cache
def _extended(mixin: type, base: type[nn.Module]) -> type[nn.Module]:
    body = {'__module__': base.__module__, '__doc__': base.__doc__}
    return type(base.__name__, (mixin, base), {**body, '__reduce_ex__': _reduce})


def _reduce(module: nn.Module, protocol: int) -> tuple:
    mixin, base = type(module).__bases__
    _, _, *state = object.__reduce_ex__(module, protocol)
    return _rebuild, (mixin, base), *state


def _rebuild(mixin: type, base: type[nn.Module]) -> nn.Module:
    kind = _extended(mixin, base)
    return kind.__new__(kind)
