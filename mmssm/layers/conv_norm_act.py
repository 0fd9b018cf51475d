"""Convolution, normalisation, activation."""

from collections.abc import Callable

from torch import Tensor, nn

from mmssm.layers.pointwise import pointwise

NormFactory = Callable[[int], nn.Module]


class ConvNormAct(nn.Sequential):
    """`conv`, then `norm` and `act` where given; keeps H and W at stride 1.

    norm: called with the number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: NormFactory | None = None,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
        )
        if norm is not None:
            self.norm = norm(out_channels)
        if act is not None:
            self.act = act

    def forward(self, x: Tensor) -> Tensor:
        conv, *others = self
        x = pointwise(conv, x)
        for module in others:
            x = module(x)
        return x
