"""A feature pyramid from maps that all have one stride."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmssm.layers import ChannelNorm
from mmssm.ops.operator import is_exporting

STRIDES = (4, 8, 16, 32)


def pyramid_level(channels: int, stride: int, target: int) -> nn.Sequential:
    """A module that takes maps of one stride to another one, both powers of 2.

    As in ViTDet (arXiv 2203.16527, section 3): transposed convolutions 2x2 upwards,
    with a norm and GELU between two of them, max pooling downwards; channels stay.
    Raises ValueError unless the stride is one of `STRIDES`.
    """
    if stride not in STRIDES:
        raise ValueError(
            f'maps of stride {stride} give no pyramid; expected one of {STRIDES}, '
            'which is the patch size of the backbone'
        )
    steps = []
    while stride > target:
        if steps:
            steps += [ChannelNorm(channels), nn.GELU()]
        steps.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
        stride //= 2
    while stride < target:
        steps.append(nn.MaxPool2d(2, ceil_mode=True))
        stride *= 2
    return nn.Sequential(*steps)


def crop(x: Tensor, size: Sequence[int], stride: int) -> Tensor:
    """The part of a map of this stride that an image of (H, W) covers, contiguous."""
    # runtimes round the quotient of a negative number up
    height, width = ((side + stride - 1) // stride for side in size)
    if is_exporting():  # of a slice the graph would ask if it is whole
        rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
        return x.index_select(2, rows).index_select(3, columns)
    return x[..., :height, :width].contiguous()


class Pyramid(nn.Module):
    """Maps of one stride -> four maps at strides 4, 8, 16 and 32.

    channels, stride: of the maps.  count: of the maps, 4, one for each level, or 1 for
    all of them.  Raises ValueError for another stride or count.
    """

    def __init__(self, channels: int, stride: int, count: int) -> None:
        super().__init__()
        if count not in (1, len(STRIDES)):
            raise ValueError(
                f'{count} maps of one stride give no pyramid; expected 4, one for each '
                'level, or 1 for all of them (out_indices of the host)'
            )
        self.levels = nn.ModuleList(
            pyramid_level(channels, stride, target) for target in STRIDES
        )

    def forward(
        self, maps: Sequence[Tensor], size: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """maps: (B, C, H', W') each; size: (H, W) of the image.

        Returns (B, C, ceil(H / s), ceil(W / s)) for s = 4, 8, 16, 32.
        """
        maps = list(maps) * (len(STRIDES) // len(maps))
        return tuple(
            crop(level(x), size, stride)
            for level, x, stride in zip(self.levels, maps, STRIDES, strict=True)
        )
