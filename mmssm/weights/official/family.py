"""How the names of a released model become ours: the form of each family's table."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

StateDict = dict[str, Tensor]


class Family(NamedTuple):
    """How the official names of one family become ours.

    signature: a pattern that only keys of this family match, after the prefix.
    renames: pairs (pattern, replacement), all applied in this order.
    finish: what renaming cannot do, on the backbone's renamed keys.
    """

    signature: str
    renames: tuple[tuple[str, str], ...]
    finish: Callable[[StateDict], StateDict]
