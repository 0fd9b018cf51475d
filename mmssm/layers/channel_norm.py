"""LayerNorm over the channels of a map."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.ops.precision import no_autocast


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over C at every position of a (B, C, H, W) map.

    The result lies channels last in memory; for an input that does, nothing is copied.
    It has the input's dtype, under autocast too: the statistics are in float32
    inside, and the products that follow take a map in lower precision as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            y = F.layer_norm(
                x.permute(0, 2, 3, 1),
                self.normalized_shape,
                self.weight.to(x.dtype),
                self.bias.to(x.dtype),
                self.eps,
            )
        return y.permute(0, 3, 1, 2)
