"""Convolutional stem of Spatial-Mamba and MILA."""

from torch import Tensor, nn

from mmssm.layers.conv_norm_act import ConvNormAct, NormFactory
from mmssm.layers.padding import pad_to_multiple


class ConvStem(nn.Module):
    """(B, in, H, W) -> (B, C, ceil(H/4), ceil(W/4)).

    conv 3x3 /2 to C/2; a residual of two 3x3; conv 3x3 /2 to 4C; 1x1 to C.  A norm
    after every convolution, ReLU after each but the second of the residual and the
    last.
    """

    def __init__(self, in_channels: int, channels: int, norm: NormFactory) -> None:
        super().__init__()
        half = channels // 2
        relu = nn.ReLU()
        self.conv1 = ConvNormAct(in_channels, half, 3, stride=2, norm=norm, act=relu)
        self.conv2 = nn.Sequential(
            ConvNormAct(half, half, 3, norm=norm, act=relu),
            ConvNormAct(half, half, 3, norm=norm),
        )
        self.conv3 = nn.Sequential(
            ConvNormAct(half, 4 * channels, 3, stride=2, norm=norm, act=relu),
            ConvNormAct(4 * channels, channels, 1, norm=norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x + self.conv2(x)
        return self.conv3(x)


class PaddedConvStem(ConvStem):
    """The stem of MILA: zeros below and to the right make H and W multiples of 4."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_to_multiple(x, 4))
