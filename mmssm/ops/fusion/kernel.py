"""The one kernel that all dilations of a state fusion make together."""

from torch import Tensor


def merge_kernels(
    kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...] = (1, 3, 5)
) -> Tensor:
    """The single kernel with the effect of all dilated ones.

    kernels: (K, C, 1, 3, 3).  alpha: (K,).  Returns (C, 1, S, S) with
    S = 2 max(dilations) + 1; differentiable, computed anew at every call.
    """
    reach = max(dilations)
    size = 2 * reach + 1
    merged = kernels.new_zeros(kernels.shape[1], 1, size, size)
    for weight, scale, d in zip(kernels, alpha, dilations, strict=True):
        taps = slice(reach - d, reach + d + 1, d)
        merged[..., taps, taps] += scale * weight
    return merged
