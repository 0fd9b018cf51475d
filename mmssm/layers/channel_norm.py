"""LayerNorm over the channels of a map."""

from torch import Tensor, nn

from mmssm.layers.recomputed import is_plain, linear_after
from mmssm.ops import channel_norm


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over C at every position of a (B, C, H, W) map; `ops.channel_norm`.

    The result lies channels last in memory; for an input that does, nothing is copied.
    It has the input's dtype, under autocast too: the statistics are in float32
    inside, and the products that follow take a map in lower precision as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        return channel_norm(x, self.weight, self.bias, self.eps)


def linear_of_norm(
    linear: nn.Module, norm: nn.Module | None, x: Tensor, parts: int = 1
) -> tuple[Tensor, ...]:
    """linear(norm x) of a (B, C, H, W) map: `parts` maps of rows (B, H, W, O / parts).

    norm: a `ChannelNorm`, whose result is not kept for the backward pass; any other
    module is called as it is, None leaves x as it is.
    """
    if norm is None or not is_plain(norm, ChannelNorm):
        x = x if norm is None else norm(x)
        return linear_after(linear, None, (_rows(x),), parts)
    eps = norm.eps

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _rows(channel_norm(x, weight, bias, eps))

    return linear_after(linear, normed, (x, norm.weight, norm.bias), parts)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)
