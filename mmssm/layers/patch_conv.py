"""Convolution that cuts a map into patches."""

from torch import Tensor, nn

from mmssm.layers.padding import pad_to_multiple


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
        return super().forward(pad_to_multiple(x, self.stride[0]))
