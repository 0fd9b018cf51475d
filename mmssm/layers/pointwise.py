"""A convolution of single cells as a product of matrices."""

import torch
from torch import Tensor, nn

from mmssm.layers.recomputed import is_plain
from mmssm.ops import linear_of

LAST = torch.channels_last


def pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """conv x, for any convolution; on a GPU a plain 1 x 1 one is `as_product`.

    cuDNN leaves the bias to a kernel of its own, which takes as long as the product.
    """
    if x.is_cuda and _is_single(conv) and x.is_contiguous(memory_format=LAST):
        return as_product(conv, x)
    return conv(x)


def as_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """weight x_p + bias at each cell p: (B, C, H, W) -> (B, O, H, W), channels last."""
    cells = x.permute(0, 2, 3, 1)
    (found,) = linear_of(None, (cells,), conv.weight.flatten(1), conv.bias)
    return found.permute(0, 3, 1, 2)


def _is_single(conv: nn.Module) -> bool:
    return (
        is_plain(conv, nn.Conv2d)
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )
