"""Norm of a map, gated by another."""

from torch import Tensor

from mmssm.ops import counting, dispatch, trial
from mmssm.ops.gate.naive import gated_norm_naive
from mmssm.ops.gate.recomputed import gated_norm_recomputed
from mmssm.ops.precision import no_autocast, widened

__all__ = ['gated_norm']


def _naive(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    with no_autocast(y):
        return widened(gated_norm_naive)(y, z, weight, bias, eps).to(z.dtype)


def _small(randn: trial.Draw) -> tuple:
    """Arguments for a first try."""
    y, z = (t.movedim(-1, 1) for t in randn(2, 2, 5, 7, 48, low=True))
    return y, z, randn(48), randn(48), 1e-5


dispatch.register(
    'gated_norm',
    [
        trial.kernels(
            'gated_norm',
            'mmssm.ops.gate.triton:gated_norm_triton',
            gated_norm_recomputed,
            _small,
        ),
        dispatch.Implementation('recomputed', gated_norm_recomputed),
        dispatch.Implementation('naive', _naive),
    ],
    # norms and elementwise maps count nothing
    counting.Cost(
        macs=lambda *inputs: 0, zeros=lambda y, z, *rest: z.new_zeros(z.shape)
    ),
)


def gated_norm(
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    backend: str | None = None,
) -> Tensor:
    """LayerNorm of one map over its channels, times the SiLU of another.

        out_p = (weight * (y_p - mean y_p) / sqrt(var y_p + eps) + bias) * SiLU(z_p)
    (LayerNorm: arXiv 1607.06450; the gate at the end of a Mamba block: arXiv
    2312.00752, figure 3.)

    y, z: (B, C, H, W).  weight, bias: (C,).  Returns (B, C, H, W) in z's dtype,
    channels last in memory; computed in float64 if any input is and in float32
    otherwise, autocast or not.  Only the inputs are saved for the adjoint.
    backend: 'triton', the default on a GPU; 'recomputed', the default elsewhere;
    'naive', the definition.

    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    if y.dim() != 4 or 0 in y.shape:
        raise ValueError(
            f'y has shape {tuple(y.shape)}; expected (B, C, H, W) with no zero'
        )
    if z.shape != y.shape:
        raise ValueError(
            f'z has shape {tuple(z.shape)}; expected that of y, {tuple(y.shape)}'
        )
    for name, value in (('weight', weight), ('bias', bias)):
        if value.shape != y.shape[1:2]:
            raise ValueError(
                f'{name} has shape {tuple(value.shape)}; expected (C={y.shape[1]},)'
            )
    run = dispatch.choose('gated_norm', backend, y, z, weight, bias)
    return run(y, z, weight, bias, eps)
