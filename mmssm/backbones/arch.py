"""Architectures: names in a table, or settings of one's own."""

from collections.abc import Mapping, Sequence

Arch = str | Mapping[str, object]


def read_arch(arch: Arch, zoo: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The settings of an architecture: a name of `zoo`, or a dict with the same keys.

    `channels` may be an int, doubled from stage to stage.  Returns a dict whose
    `channels` and `depths` are tuples of the same length.  What an architecture may be
    stands in `backbones.arguments`.
    """
    settings = dict(zoo[arch] if isinstance(arch, str) else arch)
    depths = tuple(settings['depths'])
    channels = per_stage(settings['channels'], depths)
    return {**settings, 'channels': channels, 'depths': depths}


def per_stage(values: int | Sequence[int], depths: Sequence[int]) -> tuple[int, ...]:
    """A number for each stage; one number is doubled from stage to stage."""
    if isinstance(values, int):
        values = [values * 2**i for i in range(len(depths))]
    return tuple(values)
