"""Linear attention and the gated mixer around it, the token mixer of MILA."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.layers.depthwise import depthwise
from mmssm.ops import linear_attention


class LinearAttention(nn.Module):
    """Every position reads all others in linear time (arXiv 2405.16605).

        q, k = split(query_key x);    y = attention(q, k, x) + local x
    x: (B, C, H, W) -> (B, C, H, W), C a multiple of 4 and of heads; the values are x
    itself.  The attention's rotary encoding follows from the map's size, see
    `ops.linear_attention`, which computes in float32 (or float64) whatever autocast
    says.

    query_key (2 C, C): truncated N(0, 0.02^2), bias 0.
    local (C, 1, 3, 3): depthwise, with bias, torch's initialisation; a positional
    encoding that the values give (LePE, arXiv 2107.00652).

    Raises ValueError for channels and heads that do not fit.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % 4 or heads < 1 or channels % heads:
            raise ValueError(
                f'linear attention has {channels} channels and heads={heads}; expected '
                'a multiple of 4 (rotary encoding) that the heads divide'
            )
        self.heads = heads
        self.query_key = nn.Linear(channels, 2 * channels)
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        nn.init.trunc_normal_(self.query_key.weight, std=0.02)
        nn.init.zeros_(self.query_key.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(*self.queries_and_keys(x), x)
        return y + depthwise(self.local, x)

    def queries_and_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two maps of the shape of x."""
        projected = self.query_key(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return projected.chunk(2, 1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention alone, without what is local."""
        return linear_attention(q, k, v, heads=self.heads)

    def extra_repr(self) -> str:
        return f'heads={self.heads}'


class GatedLinearAttention(nn.Module):
    """Linear attention in the block of Mamba (arXiv 2405.16605).

        u = SiLU(conv(in_proj x));    out = out_proj(attention(u) * SiLU(gate_proj x))
    x: (B, C, H, W) -> (B, C, H, W).

    in_proj, gate_proj, out_proj (C, C): truncated N(0, 0.02^2), bias 0.
    conv (C, 1, 3, 3): depthwise, with bias, torch's initialisation.
    attention: see `LinearAttention`, which also says what raises.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, channels)
        self.gate_proj = nn.Linear(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.attention = LinearAttention(channels, heads)
        self.out_proj = nn.Linear(channels, channels)
        for linear in (self.in_proj, self.gate_proj, self.out_proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.silu(self.gate_proj(x.permute(0, 2, 3, 1)))  # (B, H, W, C)
        y = self.attention(self.expand(x)).permute(0, 2, 3, 1)
        return self.out_proj(y * gate).permute(0, 3, 1, 2)

    def expand(self, x: Tensor) -> Tensor:
        """Input of the attention, of the shape of x."""
        u = self.in_proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return depthwise(self.conv, u, activation='silu')
