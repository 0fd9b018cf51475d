"""Convolution that cuts a map into patches."""

import torch.nn.functional as F
from torch import Tensor, nn


class PatchConv(nn.Conv2d):
    """(B, in, H, W) -> (B, out, ceil(H / patch), ceil(W / patch)).

    A map that patches do not divide is continued with zeros below and to the right.
    Weights from N(0, 0.02^2) truncated at 2, biases 0.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__(in_channels, out_channels, patch, stride=patch)
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        patch = self.stride[0]
        height, width = x.shape[2:]
        return super().forward(F.pad(x, (0, -width % patch, 0, -height % patch)))
