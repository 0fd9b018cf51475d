"""Stochastic depth."""

import torch
from torch import Tensor, nn

from mmssm.layers.arguments import checked, number


class DropPath(nn.Module):
    """Drop the whole residual of a sample with probability `rate` while training.

    Kept samples are divided by 1 - rate, so that the mean stays (Huang et al., arXiv
    1603.09382).  x: (B, ...), same shape out.  Raises ValueError unless 0 <= rate < 1.
    """

    @checked({'rate': number(0, 1, below=True)})
    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        keep = torch.empty(shape, dtype=x.dtype, device=x.device)
        return x * keep.bernoulli_(1 - self.rate).div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f'rate={self.rate}'
