"""The parameters of a structure-aware state fusion."""

import torch
from torch import nn


class StateFusion(nn.Module):
    """What mixes each state with its dilated 3x3 neighbourhoods; see `ops.observe`.

    kernels: (K, C, 3, 3), ones; one depthwise kernel for each dilation.
    alpha: (K,), ones; weight of each dilation.
    """

    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 3, 5)) -> None:
        super().__init__()
        self.dilations = tuple(dilations)
        count = len(self.dilations)
        self.kernels = nn.Parameter(torch.ones(count, channels, 3, 3))
        self.alpha = nn.Parameter(torch.ones(count))

    def extra_repr(self) -> str:
        return f'channels={self.kernels.shape[1]}, dilations={self.dilations}'
