"""Multi-dimensional damped exponential moving average of Mega."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.ops.fft import fast_length
from mmssm.ops.precision import no_autocast, wide


class ExponentialMovingAverage(nn.Module):
    """Average along the row-major sequence of a map, in both directions.

        h_n[t] = alpha_n beta_n x[t] + (1 - alpha_n delta_n) h_n[t - 1]
        y = SiLU(sum_n gamma_n h_n / sqrt(N) + the same from the end + omega x)
    (Mega, arXiv 2209.10655; as in its released code, the way back leaves out the pixel
    itself.)  alpha and delta are kept before the sigmoid.

    alpha, delta, beta, gamma: (2, C, N), forth and back.  omega: (C,).
    x: (B, C, H, W), any H and W; same shape out.
    """

    def __init__(self, channels: int, num_states: int = 16) -> None:
        super().__init__()
        shape = (2, channels, num_states)
        self.alpha = nn.Parameter(0.2 * torch.randn(shape))
        self.delta = nn.Parameter(0.2 * torch.randn(shape))
        signs = 1 - 2 * (torch.arange(num_states) % 2)  # 1, -1, 1, ...
        self.beta = nn.Parameter(signs + 0.02 * torch.randn(shape))
        self.gamma = nn.Parameter(torch.randn(shape))
        self.omega = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            u, omega = wide(x.flatten(2), self.omega)  # (B, C, L)
            length = u.shape[2]
            forth, back = self._kernels(length).to(u.dtype)
            size = fast_length(2 * length)
            # the way back has index -1, -2, ... of a circular kernel
            kernel = F.pad(forth, (0, size - length))
            kernel = kernel + F.pad(back.flip(1), (size - length, 0))
            spectrum = torch.fft.rfft(u, size) * torch.fft.rfft(kernel)
            y = torch.fft.irfft(spectrum, size)[..., :length] + omega[:, None] * u
        return F.silu(y).view(x.shape).to(x.dtype)

    def _kernels(self, length: int) -> Tensor:
        """Weights of x[t - l] in both directions: (2, C, length)."""
        alpha, delta, beta, gamma = wide(self.alpha, self.delta, self.beta, self.gamma)
        alpha, scale = alpha.sigmoid(), gamma.shape[2] ** -0.5
        decay = torch.log1p(-alpha * delta.sigmoid())
        steps = torch.arange(length, device=decay.device, dtype=decay.dtype)
        powers = torch.exp(decay[..., None] * steps)  # (2, C, N, length)
        return torch.einsum('dcn,dcnl->dcl', scale * alpha * beta * gamma, powers)
