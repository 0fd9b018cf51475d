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

    conv: depthwise, 3 x 3.  One that has hooks or a parametrisation, that has been
    replaced by another module or by a convolution of another kind, such as a dilated
    one, is called as it is.
    """
    if is_plain(conv, nn.Conv2d) and _is_the_ops(conv):
        return depthwise_conv(
            x, conv.weight, conv.bias, activation=activation, residual=residual
        )
    y = conv(x)
    if activation == 'silu':
        y = F.silu(y)
    return x + y if residual else y


def _is_the_ops(conv: nn.Conv2d) -> bool:
    """Whether the op knows all there is to it by the shape of the weight."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.padding_mode == 'zeros'
    )
