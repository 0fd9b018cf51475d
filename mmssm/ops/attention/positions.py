"""Position weights on a grid other than the trained one."""

import torch
from torch import Tensor

from mmssm.ops.operator import is_exporting
from mmssm.ops.precision import no_autocast, wide

MODES = ('bicubic', 'bilinear', 'area', 'mean')


def resample_positions(
    weight: Tensor, size: tuple[int, int], mode: str = 'bicubic'
) -> Tensor:
    """The learned function of position on another grid, for a sum of the same scale.

        w' = (h w / H W) R_rows weight R_columns^T,    rows of R sum to 1
    so that the context of a map that is enlarged stays about the same.  At the trained
    size the weights come back as they are.  R depends on sizes only, and as a matrix
    product its gradient is deterministic on every device.

    weight: (h, w).  size: (H, W).  mode: 'bicubic' or 'bilinear', interpolation over as
    many cells as a new one covers; 'area', the integral of a step function over the new
    cell; 'mean', all positions alike, at the trained size too.  Returns (H, W).

    Raises ValueError for an unknown mode and an empty size.
    """
    if mode not in MODES:
        raise ValueError(
            f'mode is {mode!r}; expected one of {", ".join(map(repr, MODES))}'
        )
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f'size is {tuple(size)}; expected (H, W), both from 1')
    # a size of a recorded graph may be any: there the matrices are those of identity
    recorded = is_exporting()
    if mode != 'mean' and not recorded and weight.shape == torch.Size(size):
        return weight
    area = size[0] * size[1]
    with no_autocast(weight):
        (weight,) = wide(weight)
        if mode == 'mean':
            return (weight.sum() / area).expand(*size)
        rows, columns = (
            _resampling(old, new, mode, weight)
            for old, new in zip(weight.shape, size, strict=True)
        )
        return weight.numel() / area * (rows @ weight @ columns.T)


def _resampling(old: int, new: int, mode: str, like: Tensor) -> Tensor:
    """(new, old): how each new position reads the old ones; every row sums to 1."""
    options = {'dtype': like.dtype, 'device': like.device}
    step = old / torch.full((), new, **options)
    centres = (torch.arange(new, **options) + 0.5) * step
    cells = torch.arange(old, **options) + 0.5
    distance = (centres[:, None] - cells).abs()
    if mode == 'area':  # of two intervals, one step and one cell long
        values = ((step + 1) / 2 - distance).clamp_min(0).minimum(step.clamp_max(1))
    else:
        kernel = _cubic if mode == 'bicubic' else _triangle
        values = kernel(distance / step.clamp_min(1))
    return values / values.sum(1, keepdim=True)


def _triangle(d: Tensor) -> Tensor:
    return (1 - d).clamp_min(0)


def _cubic(d: Tensor) -> Tensor:
    """Cubic convolution with a = -1/2 (Keys, 1981)."""
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, 0))
