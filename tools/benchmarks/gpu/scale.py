"""What a run measures: all of it, or sizes for a test."""

from typing import NamedTuple

Shape = tuple[int, int, int, int]  # (B, C, H, W)


class Size(NamedTuple):
    """Images."""

    height: int
    width: int
    batch: int

    @property
    def words(self) -> str:
        """For a table."""
        return f'{self.batch} x {self.height} x {self.width}'


class Scale(NamedTuple):
    """How much of everything.

    parity: maps for each op; ssm2d gets its own.  stages: inner channels of
    SpatialMamba-T's maps, at a large batch of small images and at a batch of detection.
    archs: of SpatialMamba.  images: of whole networks.  growth: of one network, each
    four times the last.  copy, matmul: bytes and side.
    """

    parity: tuple[Shape, ...]
    filters: tuple[Shape, ...]
    stages: dict[str, tuple[Shape, ...]]
    archs: dict[str, object]
    images: tuple[Size, ...]
    growth: tuple[Size, ...]
    single: Size
    copy: int
    matmul: int
    repeats: int
    passes: int
    warm_up: int


FULL = Scale(
    parity=(
        (2, 128, 56, 56),
        (2, 64, 24, 40),
        (1, 64, 37, 53),
        (2, 512, 7, 7),
        (1, 96, 200, 334),
    ),
    filters=((2, 64, 24, 40), (1, 96, 37, 53), (1, 96, 200, 334)),
    stages={
        '224': tuple((128, 128 * 2**i, 56 // 2**i, 56 // 2**i) for i in range(4)),
        '800x1333': (
            (2, 128, 200, 334),
            (2, 256, 100, 167),
            (2, 512, 50, 84),
            (2, 1024, 25, 42),
        ),
    },
    archs={'t': 'tiny', 's': 'small', 'b': 'base'},
    images=(Size(224, 224, 128), Size(800, 1280, 2), Size(512, 512, 16)),
    growth=(Size(512, 512, 2), Size(1024, 1024, 2), Size(2048, 2048, 2)),
    single=Size(224, 224, 1),
    copy=1 << 30,
    matmul=8192,
    repeats=20,
    passes=10,
    warm_up=10,
)
SMALL = {'channels': 8, 'depths': (1, 1, 1, 1)}
TINY = Scale(
    parity=((1, 8, 5, 6),),
    filters=(),
    stages={'224': ((1, 8, 4, 4),), '800x1333': ((1, 8, 3, 5),)},
    archs={'t': SMALL},
    images=(Size(64, 64, 2),),
    growth=(Size(32, 32, 1), Size(64, 64, 1)),
    single=Size(32, 32, 1),
    copy=1 << 16,
    matmul=64,
    repeats=1,
    passes=1,
    warm_up=0,
)
