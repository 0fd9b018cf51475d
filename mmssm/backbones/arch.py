"""Architectures: names in a table, or settings of one's own."""

from collections.abc import Mapping, Sequence

Arch = str | Mapping[str, object]


def read_arch(arch: Arch, zoo: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The settings of an architecture: a name of `zoo`, or a dict with the same keys.

    `channels` may be an int, doubled from stage to stage.  Returns a dict whose
    `channels` and `depths` are tuples of the same length.  Raises ValueError for an
    unknown name, for missing or unknown keys, and for values that do not fit.
    """
    if isinstance(arch, str):
        if arch not in zoo:
            names = ', '.join(repr(name) for name in zoo)
            raise ValueError(
                f'arch is {arch!r}; expected one of {names}, or a dict such as '
                f'{dict(next(iter(zoo.values())))}'
            )
        arch = zoo[arch]
    expected = set(next(iter(zoo.values())))
    if not isinstance(arch, Mapping) or set(arch) != expected:
        raise ValueError(
            f'arch is {arch!r}; expected a name or a dict with the keys '
            f'{sorted(expected)}'
        )
    settings = dict(arch)
    settings['depths'] = _positive(settings['depths'], 'depths')
    settings['channels'] = per_stage(
        settings['channels'], 'channels', settings['depths']
    )
    return settings


def per_stage(values: object, name: str, depths: Sequence[int]) -> tuple[int, ...]:
    """One positive integer for each of the depths; one int is doubled each time.

    name: the setting's, for what is raised: ValueError for values that do not fit.
    """
    if isinstance(values, int):
        values = [values * 2**i for i in range(len(depths))]
    values = _positive(values, name)
    if len(values) != len(depths):
        raise ValueError(
            f'arch has {len(depths)} depths {depths} but {len(values)} {name} '
            f'{values}; expected one of each per stage, or one int for {name}'
        )
    return values


def _positive(values: object, name: str) -> tuple[int, ...]:
    fits = isinstance(values, Sequence) and not isinstance(values, str) and values
    if not fits or not all(isinstance(v, int) and v > 0 for v in values):
        raise ValueError(
            f'arch has {name}={values!r}; expected a sequence of positive integers, '
            'one per stage'
        )
    return tuple(values)
