"""LayerNorm over the channels of a map."""

from torch import Tensor, nn

from mmssm.ops import channel_norm


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over C at every position of a (B, C, H, W) map; `ops.channel_norm`.

    The result lies channels last in memory; for an input that does, nothing is copied.
    It has the input's dtype, under autocast too: the statistics are in float32
    inside, and the products that follow take a map in lower precision as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        return channel_norm(x, self.weight, self.bias, self.eps)
