"""Structure-aware state fusion as a layer."""

import torch
from torch import Tensor, nn

from mmssm.layers.arguments import checked, integer, integers
from mmssm.ops import state_fusion
from mmssm.ops.fusion import LARGEST_DILATION

RULES = {'channels': integer(), 'dilations': integers(1, LARGEST_DILATION)}


class StateFusion(nn.Module):
    """Mix each state with its dilated 3x3 neighbourhoods; see `ops.state_fusion`.

    kernels: (K, C, 3, 3), ones; one depthwise kernel for each dilation.
    alpha: (K,), ones; weight of each dilation.
    (B, C, H, W) -> (B, C, H, W), float32 or float64.
    Raises ValueError for channels or dilations that are no integers from 1.
    """

    @checked(RULES)
    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 3, 5)) -> None:
        super().__init__()
        self.dilations = tuple(dilations)
        count = len(self.dilations)
        self.kernels = nn.Parameter(torch.ones(count, channels, 3, 3))
        self.alpha = nn.Parameter(torch.ones(count))

    def forward(self, h: Tensor) -> Tensor:
        taps = self.kernels.unsqueeze(2)
        return state_fusion(h, taps, self.alpha, dilations=self.dilations)

    def extra_repr(self) -> str:
        return f'channels={self.kernels.shape[1]}, dilations={self.dilations}'
