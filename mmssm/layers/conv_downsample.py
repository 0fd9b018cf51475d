"""Downsampling between the stages of Spatial-Mamba and MILA."""

from torch import Tensor, nn

from mmssm.layers.conv_norm_act import ConvNormAct, NormFactory
from mmssm.layers.padding import pad_to_multiple


class ConvDownsample(nn.Sequential):
    """(B, C, H, W) -> (B, C', ceil(H/2), ceil(W/2)).

    1x1 to 4C' and ReLU, depthwise 3x3 /2 and ReLU, 1x1 to C' and a norm, all with
    bias.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: NormFactory) -> None:
        wide = 4 * out_channels
        super().__init__(
            ConvNormAct(in_channels, wide, 1, bias=True, act=nn.ReLU()),
            ConvNormAct(wide, wide, 3, stride=2, groups=wide, bias=True, act=nn.ReLU()),
            ConvNormAct(wide, out_channels, 1, bias=True, norm=norm),
        )


class PaddedConvDownsample(ConvDownsample):
    """The downsampling of MILA: an odd H or W gets one more row or column of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_to_multiple(x, 2))
