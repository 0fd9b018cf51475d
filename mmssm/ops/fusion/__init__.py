"""Structure-aware state fusion."""

from collections.abc import Callable

from torch import Tensor

from mmssm.ops import dispatch, trial
from mmssm.ops.fusion.merged import merge_kernels, state_fusion_merged
from mmssm.ops.fusion.naive import state_fusion_naive
from mmssm.ops.fusion.shared_border import state_fusion_shared_border
from mmssm.ops.precision import no_autocast, widened

__all__ = ['merge_kernels', 'state_fusion']


def _triton(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> Tensor:
    from mmssm.ops.fusion.triton import state_fusion_triton

    return state_fusion_triton(h, kernels, alpha, dilations)


def _small(randn: Callable[..., Tensor]) -> tuple:
    """Arguments for a first try."""
    return randn(1, 6, 9, 11), randn(3, 6, 1, 3, 3), randn(3), (1, 3, 5)


dispatch.register(
    'state_fusion',
    [
        trial.kernels(
            'state_fusion', _triton, widened(state_fusion_shared_border), _small
        ),
        dispatch.Implementation('shared_border', widened(state_fusion_shared_border)),
        dispatch.Implementation('merged', widened(state_fusion_merged)),
        dispatch.Implementation('naive', widened(state_fusion_naive)),
    ],
    # as its convolutions
    macs=lambda h, kernels, alpha, dilations: 9 * len(dilations) * h.numel(),
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
    'merged'; 'naive', the definition.

    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    check_fusion(h, kernels, alpha, dilations)
    run = dispatch.choose('state_fusion', backend, h, kernels, alpha)
    with no_autocast(h):
        return run(h, kernels, alpha, dilations)


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
    if not dilations or min(dilations) < 1:
        raise ValueError(
            f'dilations are {dilations}; expected one or more integers from 1'
        )
