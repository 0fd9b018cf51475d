"""The 2-D SSM by its definition: one double loop over the cells, one over the taps."""

import torch
from torch import Tensor

# Axes along which a direction sees the map reversed, in the order of the rows of C.
FLIPS = {2: ((), (-2, -1)), 4: ((), (-2,), (-1,), (-2, -1))}


def states_naive(A: Tensor, B: Tensor, height: int, width: int) -> Tensor:
    """Horizontal and vertical state of every cell after a unit impulse in the corner.

    A: (4, ...).  B: (2, ...).  Returns (2, ..., height, width).
    """
    zero = torch.zeros_like(A[0])
    cells = {}
    for i in range(height):
        for j in range(width):
            h, v = (B[0], B[1]) if i == j == 0 else (zero, zero)
            if j > 0:
                before = cells[i, j - 1]
                h = _share(i, j - 1) * (A[0] * before[0] + A[1] * before[1])
            if i > 0:
                above = cells[i - 1, j]
                v = _share(i - 1, j) * (A[2] * above[0] + A[3] * above[1])
            cells[i, j] = torch.stack([h, v])
    rows = [torch.stack([cells[i, j] for j in range(width)], -1) for i in range(height)]
    return torch.stack(rows, -2)


def _share(i: int, j: int) -> float:
    """The mean of both states where both exist; on an axis only one of them does."""
    return 0.5 if (i == 0) == (j == 0) else 1.0


def ssm2d_kernel_naive(
    A: Tensor, B: Tensor, C: Tensor, height: int, width: int
) -> Tensor:
    """The twin that defines `ssm2d_kernel`; same shapes."""
    states = states_naive(A, B, height, width)  # (2, S, N, height, width)
    directions, channels, count = C.shape[1:]
    owner = torch.arange(directions * channels, device=A.device) % A.shape[1]
    states = states[:, owner.view(directions, channels)]
    kernel = (C[..., None, None] * states).sum((0, 3)) / count**0.5
    edge = torch.ones(height, width, device=A.device, dtype=kernel.real.dtype)
    edge[0] *= 2
    edge[:, 0] *= 2
    edge[0, 0] /= 4
    return (kernel * edge).real


def ssm2d_naive(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    height: int,
    width: int,
    tolerance: float,
) -> Tensor:
    """The twin that defines `ssm2d`; same shapes, no truncation by tolerance."""
    H, W = x.shape[2:]
    kernels = ssm2d_kernel_naive(A, B, C, height, width)
    x = x.to(kernels.dtype)
    y = torch.zeros_like(x) if skip is None else skip[:, None, None] * x
    for kernel, axes in zip(kernels, FLIPS[len(kernels)], strict=True):
        seen, sums = x.flip(axes), torch.zeros_like(x)
        for i in range(height):
            for j in range(width):
                tap = kernel[:, i, j, None, None]
                sums[..., i:, j:] += tap * seen[..., : H - i, : W - j]
        y = y + sums.flip(axes)
    return y
