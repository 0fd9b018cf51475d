"""LayerNorm over the channels of a map."""

from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over C at every position of a (B, C, H, W) map.

    The result lies channels last in memory; for an input that does, nothing is copied.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
