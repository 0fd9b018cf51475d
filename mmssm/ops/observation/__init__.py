"""Observation of fused states."""

from collections.abc import Callable

from torch import Tensor

from mmssm.ops import dispatch, trial
from mmssm.ops.fusion import check_fusion
from mmssm.ops.observation.naive import observe_naive
from mmssm.ops.observation.shared_border import observe_shared_border
from mmssm.ops.precision import no_autocast, widened

__all__ = ['observe']


def _triton(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
) -> Tensor:
    from mmssm.ops.observation.triton import observe_triton

    return observe_triton(h, C, u, D, kernels, alpha, dilations)


def _small(randn: Callable[..., Tensor]) -> tuple:
    """Arguments for a first try."""
    h, u = randn(2, 1, 6, 9, 11)
    return h, randn(1, 1, 9, 11), u, randn(6), randn(3, 6, 1, 3, 3), randn(3), (1, 3, 5)


dispatch.register(
    'observe',
    [
        trial.kernels('observe', _triton, widened(observe_shared_border), _small),
        dispatch.Implementation('shared_border', widened(observe_shared_border)),
        dispatch.Implementation('naive', widened(observe_naive)),
    ],
    # as the convolutions of the fusion
    macs=lambda h, *rest: 9 * len(rest[-1]) * h.numel(),
)


def observe(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    *,
    dilations: tuple[int, ...] = (1, 3, 5),
    backend: str | None = None,
) -> Tensor:
    """Fuse the states, observe them, and add the skip.

        y_p = C_p h'_p + D u_p,    h' = state_fusion(h, kernels, alpha)
    (Spatial-Mamba, arXiv 2410.15091: state fusion and observation equation.)

    h: (B, D, H, W), states, one per channel; any H and W from 1.  C: (B, 1, H, W).
    u: (B, D, H, W), input of the scan.  D: (D,), skip.  kernels, alpha, dilations: see
    `state_fusion`.  Returns (B, D, H, W) in float64 if any input is float64 and in
    float32 otherwise, autocast or not.  Only the inputs are saved for the adjoint.
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
        return run(h, C, u, D, kernels, alpha, dilations)
