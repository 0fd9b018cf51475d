"""Batch norms folded into the convolutions before them, for inference."""

import copy
import itertools

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmssm.layers.recomputed import is_plain

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fuse_for_inference(backbone: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose convolutions contain the norms behind them.

        BN(conv x) = g (W x + b - mean) + shift = (g W) x + (g (b - mean) + shift),
        g = gain / sqrt(variance + eps)
    for every convolution that a batch norm follows directly in an `nn.Sequential`
    (`ConvNormAct`, hence every pair in the backbones of this package).  The result
    equals `backbone.eval()` up to rounding, cannot be trained and is not changed by
    later training of the original, which stays as it is, training mode included.
    Norms without running statistics are left alone, and so are convolutions and norms
    with hooks or a parametrisation, which see values between the two.
    """
    fused = copy.deepcopy(backbone)
    for sequence in fused.modules():
        if isinstance(sequence, nn.Sequential):
            children = list(sequence.named_children())
            for (name, conv), (norm_name, norm) in itertools.pairwise(children):
                if _foldable(conv, norm):
                    setattr(sequence, name, _fold(conv, norm))
                    setattr(sequence, norm_name, nn.Identity())
    return fused.eval().requires_grad_(False)


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether nothing happens between the two, or in them, but what they are."""
    return (
        any(is_plain(conv, kind) for kind in CONVOLUTIONS)
        and isinstance(norm, _BatchNorm)
        and is_plain(norm, type(norm))
        and norm.running_mean is not None
    )


def _fold(conv: nn.Module, norm: _BatchNorm) -> nn.Module:
    """The convolution with the norm in its weight and bias, computed in double."""
    dtype = conv.weight.dtype
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double()
    shift = gain * shift
    if norm.affine:
        gain = gain * norm.weight.double()
        shift = shift * norm.weight.double() + norm.bias.double()
    weight = conv.weight.double() * gain.reshape(-1, *[1] * (conv.weight.dim() - 1))
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(weight.to(dtype))
    fused.bias = nn.Parameter(shift.to(dtype))
    return fused
