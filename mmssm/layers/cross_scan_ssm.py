"""State-space model in four scan directions, the token mixer of VMamba."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.layers.arguments import checked, integer
from mmssm.layers.channel_norm import ChannelNorm, linear_of_norm
from mmssm.layers.depthwise import depthwise
from mmssm.ops import cross_scan
from mmssm.ops.precision import no_autocast

DIRECTIONS = 4
RULES = {
    'channels': integer(),
    'expand': integer(1, 64),
    'num_states': integer(1, 1024),
}


class CrossScanSSM(nn.Module):
    """Scan the map along rows and columns, both ways, and add up (arXiv 2401.10166).

        u = SiLU(conv(in_proj(norm x)))
        delta_k, B_k, C_k = x_proj_k u,    k = 1 … 4 directions
        y = sum_k C_k * scan_k(u, dt_proj_k delta_k, A_k, B_k) + D_k * u
        out = out_proj(LayerNorm(y))
    SS2D without a gate (`v05_noz` of the released code).  norm: comes before it; what
    the two norms give is computed again in the backward pass.
    x: (B, C, H, W); D = expand * C inner channels, N states each, step rank
    R = ceil(C / 16).

    in_proj (D, C), out_proj (C, D): no bias, truncated N(0, 0.02^2).
    conv (D, 1, 3, 3): depthwise, no bias.
    x_proj (4, R + 2N, D): gives the low-rank step, B and C; uniform within D^-1/2.
    dt_proj (4, D, R): uniform within R^-1/2.  dt_bias (4, D): makes softplus(dt_bias)
    log-uniform in [0.001, 0.1].
    A_log (4, D, N): A = -exp(A_log), log(n) for state n = 1 … N.  D (4, D): ones.

    The projections act at each position by itself, so that the map is projected once
    and no direction needs a copy of it in another order.  The scan computes in float32
    (or float64) whatever autocast says.
    Raises ValueError for arguments that do not fit `RULES`.
    """

    @checked(RULES)
    def __init__(self, channels: int, expand: int = 1, num_states: int = 1) -> None:
        super().__init__()
        inner = expand * channels
        self.rank = math.ceil(channels / 16)
        self.num_states = num_states
        self.in_proj = nn.Linear(channels, inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.x_proj = nn.Parameter(
            torch.empty(DIRECTIONS, self.rank + 2 * num_states, inner)
        )
        self.dt_proj = nn.Parameter(torch.empty(DIRECTIONS, inner, self.rank))
        self.dt_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        decays = torch.arange(1.0, num_states + 1).log()
        self.A_log = nn.Parameter(decays.repeat(DIRECTIONS, inner, 1))
        self.D = nn.Parameter(torch.ones(DIRECTIONS, inner))
        self.out_norm = ChannelNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self._initialize()

    def _initialize(self) -> None:
        for linear in (self.in_proj, self.out_proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
        for weight in (self.x_proj, self.dt_proj):
            bound = weight.shape[2] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
        low, high = math.log(0.001), math.log(0.1)
        with torch.no_grad():
            step = torch.empty_like(self.dt_bias).uniform_(low, high).exp_()
            inverse_softplus = step + torch.log(-torch.expm1(-step))
            self.dt_bias.copy_(inverse_softplus)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        u = self.expand(x, norm)
        y = self.mix(u).to(u.dtype)
        (rows,) = linear_of_norm(self.out_proj, self.out_norm, y)
        return rows.permute(0, 3, 1, 2)

    def expand(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Input of the mixing: (B, C, H, W) -> (B, D, H, W)."""
        (rows,) = linear_of_norm(self.in_proj, norm, x)
        return depthwise(self.conv, rows.permute(0, 3, 1, 2), activation='silu')

    def mix(self, u: Tensor) -> Tensor:
        """What all directions observe: (B, D, H, W) -> (B, D, H, W)."""
        delta, B, C = self.coefficients(u)
        with no_autocast(u):
            A = -torch.exp(self.A_log)
            return cross_scan(u, delta, A, B, C, self.D, self.dt_bias)

    def coefficients(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (B, 4, D, H, W), B and C (B, 4, N, H, W), that u asks for."""
        shape = u.permute(0, 2, 3, 1).shape  # (B, H, W, D)
        count = self.num_states
        projected = F.linear(u.permute(0, 2, 3, 1), self.x_proj.flatten(0, 1))
        step, B, C = (
            projected.flatten(0, 2)
            .unflatten(1, (DIRECTIONS, -1))
            .split([self.rank, count, count], dim=2)
        )  # (B H W, 4, R), (B H W, 4, N) twice
        delta = torch.bmm(step.transpose(0, 1), self.dt_proj.mT)  # (4, B H W, D)
        B, C = (t.unflatten(0, shape[:3]).permute(0, 3, 4, 1, 2) for t in (B, C))
        return delta.unflatten(1, shape[:3]).permute(1, 0, 4, 2, 3), B, C
