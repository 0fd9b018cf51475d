"""The observation by its definition."""

from torch import Tensor

from mmssm.ops.fusion.naive import state_fusion_naive


def observe_naive(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
) -> Tensor:
    """The twin that defines `observe`; same shapes."""
    return C * state_fusion_naive(h, kernels, alpha, dilations) + D[:, None, None] * u
