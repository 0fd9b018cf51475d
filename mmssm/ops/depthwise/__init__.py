"""Depthwise 3x3 convolution with what follows it."""

from torch import Tensor

from mmssm.ops import dispatch, trial
from mmssm.ops.depthwise.library import depthwise_conv_library
from mmssm.ops.depthwise.naive import depthwise_conv_naive
from mmssm.ops.precision import no_autocast, widened

__all__ = ['depthwise_conv']


def _naive(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str | None, residual: bool
) -> Tensor:
    run = widened(depthwise_conv_naive)
    with no_autocast(x):
        return run(x, weight, bias, activation, residual).to(x.dtype)


def _small(randn: trial.Draw) -> tuple:
    """Arguments for a first try."""
    x = randn(2, 9, 20, 64, low=True).movedim(-1, 1)
    return x, randn(64, 1, 3, 3), randn(64), 'silu', True


dispatch.register(
    'depthwise_conv',
    [
        trial.kernels(
            'depthwise_conv',
            'mmssm.ops.depthwise.triton:depthwise_conv_triton',
            widened(depthwise_conv_library),
            _small,
        ),
        dispatch.Implementation('library', depthwise_conv_library),
        dispatch.Implementation('naive', _naive),
    ],
    macs=lambda x, *rest: 9 * x.numel(),
)


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Convolve each channel of a map with 3x3 weights of its own, zeros around it.

        y_p = act(bias + sum_{q in 3x3} weight_q x_{p + q}) + x_p if residual
    (the positional convolution of arXiv 2103.15808 is one with a residual, the
    convolution of a Mamba block, arXiv 2312.00752, in two dimensions one with SiLU.)

    x: (B, C, H, W).  weight: (C, 1, 3, 3).  bias: (C,); None is
    zero.  activation: None or 'silu'.
    Returns (B, C, H, W) in x's dtype, autocast or not.  x and the weights alone are
    saved for the adjoint.
    backend: 'triton', the default on a GPU, adds in float32 and returns a map that
    lies channels last; 'library', the default elsewhere, is torch's convolution;
    'naive', the definition.

    Raises ValueError for shapes that do not fit, another activation and an unknown
    backend.
    """
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(
            f'x has shape {tuple(x.shape)}; expected (B, C, H, W) with no zero'
        )
    channels = x.shape[1]
    if bias is None:
        bias = weight.new_zeros(channels)
    for name, value, shape in (
        ('weight', weight, (channels, 1, 3, 3)),
        ('bias', bias, (channels,)),
    ):
        if value.shape != shape:
            raise ValueError(
                f'{name} has shape {tuple(value.shape)}; expected {shape}, for x of '
                f'shape {tuple(x.shape)}'
            )
    if activation not in (None, 'silu'):
        raise ValueError(f"activation is {activation!r}; expected None or 'silu'")
    run = dispatch.choose('depthwise_conv', backend, x, weight, bias)
    return run(x, weight, bias, activation, residual)
