"""LayerNorm over the channels of a map."""

from torch import Tensor

from mmssm.ops import dispatch, trial
from mmssm.ops.norm.library import channel_norm_library
from mmssm.ops.norm.naive import channel_norm_naive
from mmssm.ops.precision import no_autocast, widened

__all__ = ['channel_norm']


def _naive(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    with no_autocast(x):
        return widened(channel_norm_naive)(x, weight, bias, eps).to(x.dtype)


def _small(randn: trial.Draw) -> tuple:
    """Arguments for a first try."""
    x = randn(1, 24, 40, 96, low=True).movedim(-1, 1)
    return x, randn(96), randn(96), 1e-5


dispatch.register(
    'channel_norm',
    [
        trial.kernels(
            'channel_norm',
            'mmssm.ops.norm.triton:channel_norm_triton',
            widened(channel_norm_library),
            _small,
        ),
        dispatch.Implementation('library', channel_norm_library),
        dispatch.Implementation('naive', _naive),
    ],
    macs=lambda *inputs: 0,  # norms count nothing
)


def channel_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    backend: str | None = None,
) -> Tensor:
    """LayerNorm of a map over its channels, at every position by itself.

        y_p = weight * (x_p - mean x_p) / sqrt(var x_p + eps) + bias
    (LayerNorm: arXiv 1607.06450.)

    x: (B, C, H, W).  weight, bias: (C,).  Returns (B, C, H, W) in x's dtype, autocast
    or not, the statistics in float64 if x is and in float32 otherwise.
    backend: 'triton', the default on a GPU, whose result lies channels last, as does
    that of 'library', the default elsewhere, torch's own; 'naive', the definition.

    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(
            f'x has shape {tuple(x.shape)}; expected (B, C, H, W) with no zero'
        )
    for name, value in (('weight', weight), ('bias', bias)):
        if value.shape != x.shape[1:2]:
            raise ValueError(
                f'{name} has shape {tuple(value.shape)}; expected (C={x.shape[1]},)'
            )
    run = dispatch.choose('channel_norm', backend, x, weight, bias)
    return run(x, weight, bias, eps)
