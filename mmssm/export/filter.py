"""The 2-D SSM in standard operators, on maps of any size.

The kernels follow from the parameters alone, so that a file holds them, cut where the
rigorous bound of `ops.ssm2d_support` says that the rest changes no output by more than
TOLERANCE * max |x|.  The circular convolution, long enough that nothing wraps round,
is made of matrix products with cosines and sines: runtimes have fast products, while
ONNX's DFT is slow (five times, at a length of 256) to very slow (fifty times, at 270).
"""

import math

import torch
from torch import Tensor, nn

from mmssm.layers import SSM2D
from mmssm.ops.filter import ssm2d_kernel, ssm2d_support
from mmssm.ops.filter.convolution import fold

TOLERANCE = 1e-6  # about the rounding of float32
LARGEST_MAP = 4096  # cells along a side that the bound holds for
LONGEST_REACH = 256  # cells; a kernel of 511 x 511 taps for each channel


class StandardFilter(nn.Module):
    """What an `SSM2D` computes in evaluation mode; cannot be trained.

        X_f = sum_p x_p exp(-2 pi i f p / n),    y_p = 1 / n sum_f X_f K_f exp(...)
    along both axes, n = length of the map + reach - 1.  x: (B, C, H, W), any size.

    kernel: (C, 2 R - 1, 2 S - 1), taps of all directions by distance, the one at the
    middle with the skip.  norm: of the layer.

    layer: what it stands for.  size: the only (height, width) that maps have; None:
    any.
    Raises ValueError where the kernel reaches further than `LONGEST_REACH` cells and
    maps may have any size.
    """

    def __init__(self, layer: SSM2D, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.norm = layer.norm
        with torch.no_grad():
            kernel = _kernel(layer, size)
        self.register_buffer('kernel', kernel)

    def _apply(self, *args: object, **options: object) -> nn.Module:
        kernel = self.kernel
        super()._apply(*args, **options)
        # half precision is for the network around it
        self.kernel = kernel.to(self.kernel.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        taps = self.kernel
        rows, columns = (n // 2 + 1 for n in taps.shape[1:])  # reach
        down, right = height + rows - 1, width + columns - 1
        maps = x.to(taps.dtype)
        product = _times(
            _transform(maps, (0, 0), (down, right)),
            _transform(taps, (1 - rows, 1 - columns), (down, right)),
        )
        y = _transform_back(product, (height, width), (down, right))
        if self.norm is not None:
            y = self.norm(y.to(self.norm.weight.dtype))
        return y.to(x.dtype)


def _kernel(layer: SSM2D, size: tuple[int, int] | None) -> Tensor:
    A, B, C = layer.coefficients(layer.A.dtype)
    tolerance = max(layer.tolerance, TOLERANCE)
    limits = size or (LARGEST_MAP, LARGEST_MAP)
    each = ssm2d_support(A, B, C, limits, tolerance)
    reach = tuple(max(lengths) for lengths in zip(*each, strict=True))
    if layer.kernel_size is not None:
        given = layer.kernel_size
        given = (given, given) if isinstance(given, int) else given
        reach = tuple(map(min, reach, given))
    if size is None and max(reach) > LONGEST_REACH:
        raise ValueError(
            f'a kernel of a 2-D SSM reaches {max(reach)} cells before what is left out '
            f'is below {tolerance:g}; expected at most {LONGEST_REACH} where maps may '
            'have any size: export for one size (dynamic=False), or set the tolerance '
            'of the layer, 1e-4 to 1e-3'
        )
    kernels = ssm2d_kernel(A, B, C, reach)
    folded = fold(kernels, tuple(2 * r - 1 for r in reach))
    if layer.omega is not None:
        folded[:, 0, 0] += layer.omega.to(folded.dtype)
    return folded.roll([r - 1 for r in reach], (1, 2))


def _waves(count: int, first: int, lengths: int, used: int, like: Tensor) -> tuple:
    """cos and sin of 2 pi f p / n: (used, count), for frequencies f, positions p.

    first: the first position.  Products of whole numbers lose no digits.
    """
    f = torch.arange(used, device=like.device)[:, None]
    p = torch.arange(count, device=like.device) + first
    n = torch.full((), lengths, device=like.device)  # ONNX takes tensors alone
    turns = (f * p).remainder(n).to(like.dtype) / n
    return (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()


def _transform(
    maps: Tensor, first: tuple[int, int], lengths: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the DFT of real maps, half of the last axis.

    (..., H, W) -> (..., n, m // 2 + 1) for lengths (n, m); first: positions of the
    first row and column.
    """
    height, width = maps.shape[-2:]
    n, m = lengths
    cos, sin = _waves(width, first[1], m, m // 2 + 1, maps)
    real, negative = maps @ cos.T, maps @ sin.T  # real - i negative
    cos, sin = _waves(height, first[0], n, n, maps)
    return cos @ real - sin @ negative, -(sin @ real + cos @ negative)


def _times(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _transform_back(
    spectrum: tuple[Tensor, Tensor], size: tuple[int, int], lengths: tuple[int, int]
) -> Tensor:
    """The first `size` cells of the inverse."""
    real, imaginary = spectrum
    n, m = lengths
    cos, sin = (t.T for t in _waves(size[0], 0, n, n, real))  # (H, n)
    real, imaginary = cos @ real - sin @ imaginary, sin @ real + cos @ imaginary
    half = m // 2 + 1
    cos, sin = _waves(size[1], 0, m, half, real)  # (half, W)
    f = torch.arange(half, device=real.device)
    # every frequency stands for itself and for its opposite, but those that are both
    own = ((f == 0) | (2 * f == m)).to(real.dtype)
    scale = ((2 - own) / (n * m))[:, None]
    return real @ (scale * cos) - imaginary @ (scale * sin)
