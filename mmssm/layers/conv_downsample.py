"""Downsampling between the stages of Spatial-Mamba."""

from torch import nn

from mmssm.layers.conv_norm_act import ConvNormAct, NormFactory


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
