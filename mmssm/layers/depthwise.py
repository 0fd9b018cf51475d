"""A depthwise convolution of a block, with what follows it, in one op."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.layers.recomputed import is_plain
from mmssm.ops import depthwise_conv


def depthwise(
    conv: nn.Module,
    x: Tensor,
    *,
    activation: str | None = None,
    residual: bool = False,
) -> Tensor:
    """act(conv x), plus x if residual; see `ops.depthwise_conv`.  Shapes are kept.

    conv: depthwise, 3 x 3.  One that has hooks or a parametrisation, or
    that has been replaced by another module, is called as it is.
    """
    if is_plain(conv, nn.Conv2d):
        return depthwise_conv(
            x, conv.weight, conv.bias, activation=activation, residual=residual
        )
    y = conv(x)
    if activation == 'silu':
        y = F.silu(y)
    return x + y if residual else y
