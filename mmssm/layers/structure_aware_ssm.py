"""Structure-aware state-space model, the token mixer of Spatial-Mamba."""

import math

import torch
from torch import Tensor, nn

from mmssm.layers.arguments import checked, integer
from mmssm.layers.channel_norm import linear_of_norm
from mmssm.layers.depthwise import depthwise
from mmssm.layers.recomputed import linear_after
from mmssm.layers.state_fusion import RULES, StateFusion
from mmssm.ops import gated_norm, observe, selective_scan
from mmssm.ops.precision import no_autocast


class StructureAwareSSM(nn.Module):
    """Scan the map once, fuse neighbouring states, observe (arXiv 2410.15091).

        u, z = split(in_proj(norm x));  u = SiLU(conv u);  delta, B, C = x_proj u
        h = scan(u, delta, A, B);  y = C * fusion(h) + D * u
        out = out_proj(LayerNorm(y) * SiLU(z))
    norm: comes before it.  What the two norms give is computed again in the backward
    pass.
    x: (B, C, H, W) in row-major scan order, one state per channel, D = expand * C
    inner channels, step rank R = ceil(C / 16).

    in_proj (2D, C), out_proj (C, D): no bias, truncated N(0, 0.02^2).
    conv (D, 1, 3, 3): depthwise, with bias.
    x_proj (R + 2, D): gives the low-rank step, B and C; uniform within D^-1/2.
    dt_proj (D, R): uniform within R^-1/2; its bias makes softplus(bias) log-uniform
    in [0.001, 0.1].
    A_log (D, 1): A = -exp(A_log), zeros.  D (D,): skip, ones.

    The scan, the fusion, the observation and the gated norm compute in float32 (or
    float64) whatever autocast says.
    """

    @checked({**RULES, 'expand': integer(1, 64)})
    def __init__(
        self,
        channels: int,
        expand: int = 2,
        dilations: tuple[int, ...] = (1, 3, 5),
    ) -> None:
        super().__init__()
        inner = expand * channels
        self.rank = math.ceil(channels / 16)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.zeros(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.state_fusion = StateFusion(inner, dilations)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self._initialize()

    def _initialize(self) -> None:
        for linear in (self.in_proj, self.out_proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
        bound = self.rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(0.001), math.log(0.1)
        with torch.no_grad():
            step = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp_()
            inverse_softplus = step + torch.log(-torch.expm1(-step))
            self.dt_proj.bias.copy_(inverse_softplus)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        u, z = self.expand(x, norm)
        gated = (self.mix(u), z, self.out_norm.weight, self.out_norm.bias)
        (y,) = linear_after(self.out_proj, self._gate, gated)
        return y.permute(0, 3, 1, 2)

    def expand(self, x: Tensor, norm: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Input u of the mixing, and its gate z: each (B, D, H, W)."""
        # two products: halves of one would be strided, and copied again
        products = linear_of_norm(self.in_proj, norm, x, parts=2)
        u, z = (rows.permute(0, 3, 1, 2) for rows in products)
        return depthwise(self.conv, u, activation='silu'), z

    def _gate(self, y: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The gated norm as rows: (B, D, H, W) -> (B, H, W, D)."""
        return gated_norm(y, z, weight, bias, self.out_norm.eps).permute(0, 2, 3, 1)

    def mix(self, u: Tensor) -> Tensor:
        """C * fusion(scan(u)) + D * u: (B, D, H, W) -> (B, D, H, W)."""
        height, width = u.shape[2:]
        step, B, C = self.coefficients(u)
        with no_autocast(u):
            h = selective_scan(
                u.flatten(2),
                step.flatten(2),
                -torch.exp(self.A_log),
                B.flatten(2),
                self.dt_proj.bias,
                delta_weight=self.dt_proj.weight,
            )
        return observe(
            h.squeeze(2).unflatten(2, (height, width)),
            C,
            u,
            self.D,
            self.state_fusion.kernels.unsqueeze(2),
            self.state_fusion.alpha,
            dilations=self.state_fusion.dilations,
            dtype=u.dtype,
        )

    def coefficients(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step of low rank (B, R, H, W), B and C (B, 1, H, W), that u asks for."""
        (rows,) = linear_of_norm(self.x_proj, None, u)
        return rows.permute(0, 3, 1, 2).split([self.rank, 1, 1], dim=1)
