"""Gated attention of Mega with any mixing of the map."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.layers.drop_path import DropPath
from mmssm.layers.relative_position_bias import RelativePositionBias


class GatedAttention(nn.Module):
    """Attention with one head whose queries, keys and gates come from a mixed map.

        v = SiLU(value(n)),  n = norm(x)
        u, z, r, h = split(gates(mixer(n))),  u = sigmoid u,  z, r = SiLU z, SiLU r
        q, k = scale z + shift
        a = laplace(q k^T / L + bias)
        y = x + u (drop(SiLU(h + hidden((a v) r))) - x)
    (Mega, arXiv 2209.10655, with the Laplace attention function.)

    channels: C.  mixer: (B, C, H, W) -> the same; a 2-D SSM, an average, the identity.
    grid: (H, W) of the training maps.  shared: Z, width of queries and keys.
    expanded: V, width of the values.
    scale, shift: (2, Z) for q and k.  (B, C, H, W) -> the same, any H and W.
    """

    def __init__(
        self,
        channels: int,
        mixer: nn.Module,
        grid: Sequence[int],
        shared: int,
        expanded: int,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.widths = (channels, shared, expanded, channels)
        self.norm = nn.LayerNorm(channels)
        self.mixer = mixer
        self.value = nn.Linear(channels, expanded)
        self.gates = nn.Linear(channels, sum(self.widths))
        self.hidden = nn.Linear(expanded, channels)
        for linear in (self.value, self.gates, self.hidden):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.scale = nn.Parameter(0.02 * torch.randn(2, shared))
        self.shift = nn.Parameter(torch.zeros(2, shared))
        self.position = RelativePositionBias(grid)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = x.permute(0, 2, 3, 1)
        normed = self.norm(x)
        value = F.silu(self.value(normed)).flatten(1, 2)  # (B, L, V)
        mixed = self.mixer(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        u, z, r, h = self.gates(mixed).split(self.widths, dim=-1)

        z = F.silu(z).flatten(1, 2)  # (B, L, Z)
        query, key = (z * s + t for s, t in zip(self.scale, self.shift, strict=True))
        scores = query @ key.mT / (height * width)
        attention = laplace(scores + self.position(height, width))
        attended = (attention.to(value.dtype) @ value).unflatten(1, (height, width))

        h = F.silu(h + self.hidden(attended * F.silu(r)))
        y = x + torch.sigmoid(u) * (self.drop_path(h) - x)
        return y.permute(0, 3, 1, 2)


def laplace(x: Tensor) -> Tensor:
    """Distribution function of a normal variable, in the place of a softmax.

    Mean and deviation are those of the released code, for sqrt(1/2) and sqrt(1/4pi).
    """
    return 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))
