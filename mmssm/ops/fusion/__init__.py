"""Structure-aware state fusion, and the observation of fused states."""

import torch
from torch import Tensor

from mmssm.ops import dispatch, trial
from mmssm.ops.fusion.kernel import merge_kernels
from mmssm.ops.fusion.naive import observe_naive, state_fusion_naive
from mmssm.ops.fusion.shared_border import (
    observe_shared_border,
    state_fusion_shared_border,
)
from mmssm.ops.precision import no_autocast, widened

__all__ = ['LARGEST_DILATION', 'merge_kernels', 'observe', 'state_fusion']

# Taps further away read little but the border, of a map that grows by twice as much.
LARGEST_DILATION = 255


def _small_fusion(randn: trial.Draw) -> tuple:
    """Arguments for a first try."""
    h = randn(1, 64, 24, 40, low=True)
    return h, randn(3, 64, 1, 3, 3), randn(3), (1, 3, 5)


def _small_observation(randn: trial.Draw) -> tuple:
    h, u = randn(1, 64, 24, 40), randn(1, 64, 24, 40, low=True)
    C = randn(1, 1, 24, 40, low=True)
    return h, C, u, randn(64), randn(3, 64, 1, 3, 3), randn(3), (1, 3, 5), None


dispatch.register(
    'state_fusion',
    [
        trial.kernels(
            'state_fusion',
            'mmssm.ops.fusion.triton:state_fusion_triton',
            state_fusion_shared_border,
            _small_fusion,
        ),
        dispatch.Implementation('shared_border', state_fusion_shared_border),
        dispatch.Implementation('naive', widened(state_fusion_naive)),
    ],
    # as its convolutions
    macs=lambda h, kernels, alpha, dilations: 9 * len(dilations) * h.numel(),
)
dispatch.register(
    'observe',
    [
        trial.kernels(
            'observe',
            'mmssm.ops.fusion.triton:observe_triton',
            observe_shared_border,
            _small_observation,
        ),
        dispatch.Implementation('shared_border', observe_shared_border),
        dispatch.Implementation('naive', widened(observe_naive)),
    ],
    # as the convolutions of the fusion
    macs=lambda h, C, u, D, kernels, *rest: 9 * len(kernels) * h.numel(),
)


def state_fusion(
    h: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    *,
    dilations: tuple[int, ...] = (1, 3, 5),
    backend: str | None = None,
) -> Tensor:
    """Mix each state with its dilated neighbourhoods.

        h'_p = sum_k alpha_k sum_{q in N_k(p)} w_k(q - p) h_q
    (Spatial-Mamba, arXiv 2410.15091, structure-aware state fusion).  N_k(p) is the
    3x3 neighbourhood of p at dilation k; positions outside the map take the nearest
    border value.

    h: (B, C, H, W), any H and W from 1.  kernels: (K, C, 1, 3, 3).  alpha: (K,).
    dilations: K of them.  Returns (B, C, H, W) in float64 if any input is float64
    and in float32 otherwise, autocast or not.
    backend: 'triton', the default on a GPU; 'shared_border', the default elsewhere;
    'naive', the definition.

    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    check_fusion(h, kernels, alpha, dilations)
    run = dispatch.choose('state_fusion', backend, h, kernels, alpha)
    with no_autocast(h):
        return run(h, kernels, alpha, dilations)


def observe(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    *,
    dilations: tuple[int, ...] = (1, 3, 5),
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Fuse the states, observe them, and add the skip.

        y_p = C_p h'_p + D u_p,    h' = state_fusion(h, kernels, alpha)
    (Spatial-Mamba, arXiv 2410.15091: state fusion and observation equation.)

    h: (B, D, H, W), states, one per channel; any H and W from 1.  C: (B, 1, H, W).
    u: (B, D, H, W), input of the scan.  D: (D,), skip.  kernels, alpha, dilations: see
    `state_fusion`.  Returns (B, D, H, W) in `dtype`, by default in that of the sums,
    which are in float64 if any input is float64 and in float32 otherwise, autocast or
    not.  Only the inputs are saved for the adjoint.
    backend: 'triton', the default on a GPU; 'shared_border', the default elsewhere;
    'naive', the definition.

    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    check_fusion(h, kernels, alpha, dilations)
    batch, channels, height, width = h.shape
    for name, value, shape in (
        ('C', C, (batch, 1, height, width)),
        ('u', u, (batch, channels, height, width)),
        ('D', D, (channels,)),
    ):
        if value.shape != shape:
            raise ValueError(
                f'{name} has shape {tuple(value.shape)}; expected {shape}, for h of '
                f'shape {tuple(h.shape)}'
            )
    run = dispatch.choose('observe', backend, h, C, u, D, kernels, alpha)
    with no_autocast(h):
        return run(h, C, u, D, kernels, alpha, dilations, dtype)


def check_fusion(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> None:
    """Raise ValueError for arguments of `state_fusion` that do not fit."""
    if h.dim() != 4 or 0 in h.shape:
        raise ValueError(
            f'h has shape {tuple(h.shape)}; expected (B, C, H, W) with no zero'
        )
    count = len(dilations)
    if kernels.shape != (count, h.shape[1], 1, 3, 3):
        raise ValueError(
            f'kernels has shape {tuple(kernels.shape)}; expected '
            f'(K={count}, C={h.shape[1]}, 1, 3, 3)'
        )
    if alpha.shape != (count,):
        raise ValueError(f'alpha has shape {tuple(alpha.shape)}; expected ({count},)')
    if not dilations or not 1 <= min(dilations) <= max(dilations) <= LARGEST_DILATION:
        raise ValueError(
            f'dilations are {dilations}; expected one or more integers from 1 to '
            f'{LARGEST_DILATION}'
        )
