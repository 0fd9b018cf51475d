"""Models of other checkouts, each in a process of its own."""

import importlib
import multiprocessing
import sys
from pathlib import Path
from typing import NamedTuple

from torch import nn

from tools.benchmarks.case import Setting, prepare_network
from tools.benchmarks.measure import Work, peak_bytes, seconds, use

HOW = 'NAME=PATH:MODULE:FUNCTION'


class Official(NamedTuple):
    """A function of a module of a checkout, which builds a model for images."""

    name: str
    path: str
    module: str
    function: str

    @classmethod
    def parse(cls, text: str) -> 'Official':
        """From NAME=PATH:MODULE:FUNCTION; raises ValueError for anything else."""
        name, _, rest = text.partition('=')
        parts = rest.rsplit(':', 2)
        if not name or len(parts) != 3 or not all(parts):
            raise ValueError(f'--official is {text!r}; expected {HOW}')
        if not Path(parts[0]).is_dir():
            raise ValueError(f'--official {name}: there is no folder {parts[0]}')
        return cls(name, *parts)

    @property
    def case(self) -> str:
        """Its name in the tables."""
        return f'backbones/{self.name} (official)'


class Remote:
    """The model of a checkout in a process that imports nothing else first.

    Call `close` at the end, or use it in a `with` block.
    """

    def __init__(
        self, official: Official, setting: Setting, threads: int, tf32: bool
    ) -> None:
        self._pool = multiprocessing.get_context('spawn').Pool(1)
        arguments = (official, setting, threads, tf32)
        self.parameters: int = self._pool.apply(_load, arguments)

    def seconds(self) -> float:
        """Of one pass."""
        return self._pool.apply(_seconds)

    def peak_bytes(self) -> int:
        """Of one pass; ask a process that has done none before."""
        return self._pool.apply(_peak_bytes)

    def close(self) -> None:
        """End the process."""
        self._pool.terminate()
        self._pool.join()

    def __enter__(self) -> 'Remote':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# What the process of a `Remote` holds
_held: dict[str, Work | str] = {}


def _load(official: Official, setting: Setting, threads: int, tf32: bool) -> int:
    use(threads, tf32)
    sys.path.insert(0, official.path)
    model = getattr(importlib.import_module(official.module), official.function)()
    if not isinstance(model, nn.Module):
        raise TypeError(
            f'{official.module}:{official.function} of --official {official.name} gave '
            f'a {type(model).__name__}; expected a torch.nn.Module'
        )
    small = setting._replace(size=(64, 64), batch=1)
    _held['warm up'] = prepare_network(model, small).work
    _held['work'] = prepare_network(model, setting).work
    _held['device'] = setting.device
    return sum(p.numel() for p in model.parameters())


def _seconds() -> float:
    return seconds(_held['work'], _held['device'])


def _peak_bytes() -> int:
    _held['warm up']()
    return peak_bytes(_held['work'], _held['device'])
