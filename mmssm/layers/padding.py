"""Maps continued to sizes that a stride divides."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, of: int) -> Tensor:
    """Zeros below and to the right: (B, C, H, W) -> both sizes multiples of `of`."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % of, 0, -height % of))
