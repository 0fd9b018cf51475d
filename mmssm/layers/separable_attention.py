"""Separable self-attention, the token mixer of VMINet."""

import torch
from torch import Tensor, nn

from mmssm.layers.arguments import checked, choice, integer
from mmssm.ops import (
    resample_positions,
    separable_attention,
    windowed_separable_attention,
)

RESAMPLE = ('bicubic', 'bilinear', 'area', 'window', 'mean')


class SeparableAttention(nn.Module):
    """Every position reads one weighted sum over the map (arXiv 2501.02040).

        x = ReLU6(query u) * (key u);    y = alpha sum_l w_l x_l + beta x
    u: (B, C, H, W) -> (B, expand * C, H, W).

    query, key: 1x1 convolutions to expand * C with bias, torch's initialisation.
    position (h, w): the weights w_l on the grid of the training images, truncated
    N(0, 0.02^2).
    mix (2,): alpha and beta, ones.

    grid: (h, w) at training, by default that of stride 4 at 224 x 224.
    resample: what a map of another size does, with the weights interpolated from the
    grid ('bicubic', 'bilinear', 'area', see `ops.resample_positions`), with one context
    per window of the grid's size
    ('window', see `ops.windowed_separable_attention`; bicubic where the map is smaller
    than the grid), or with the mean over the map in place of the learned function, at
    the grid's size too ('mean').  The others are the same function at the grid's size.

    Raises ValueError for a number of channels, an expand or a resample that do not fit.
    """

    @checked(
        {
            'channels': integer(),
            'expand': integer(1, 64),
            'resample': choice(*RESAMPLE),
        }
    )
    def __init__(
        self,
        channels: int,
        expand: int = 2,
        grid: tuple[int, int] = (56, 56),
        resample: str = 'bicubic',
    ) -> None:
        super().__init__()
        self.resample = resample
        self.query = nn.Conv2d(channels, expand * channels, 1)
        self.key = nn.Conv2d(channels, expand * channels, 1)
        self.position = nn.Parameter(torch.empty(grid))
        self.mix = nn.Parameter(torch.ones(2))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, u: Tensor) -> Tensor:
        q, k = self.query(u), self.key(u)
        alpha, beta = self.mix
        size = q.shape[2:]
        if self.resample == 'window':
            window = tuple(map(min, self.position.shape, size))
            weight = resample_positions(self.position, window)
            return windowed_separable_attention(q, k, weight, alpha, beta)
        weight = resample_positions(self.position, size, self.resample)
        return separable_attention(q, k, weight, alpha, beta)

    def extra_repr(self) -> str:
        return f'grid={tuple(self.position.shape)}, resample={self.resample!r}'
