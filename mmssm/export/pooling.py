"""Adaptive average pooling of maps of any size, in standard operators."""

import torch
from torch import Tensor, nn

from mmssm.ops.precision import wide


class StandardPool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products.

        y = P_rows x P_columns^T,    P_ip = 1 / |bin i| where p lies in bin i
    bin i of k over n positions: floor(i n / k) to ceil((i + 1) n / k) - 1.
    size: (height, width) of the result, None where the map keeps its own.
    x: (B, C, H, W) -> (B, C, *size), in the dtype of x.
    """

    def __init__(self, size: int | None | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.size = size if isinstance(size, tuple) else (size, size)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.size
        (y,) = wide(x)
        if rows is not None:
            y = _bins(rows, x.shape[2], y) @ y
        if columns is not None:
            y = y @ _bins(columns, x.shape[3], y).T
        return y.to(x.dtype)


def _bins(count: int, length: int, like: Tensor) -> Tensor:
    """(count, length); every row sums to 1."""
    i = torch.arange(count, device=like.device)[:, None]
    p = torch.arange(length, device=like.device)
    inside = (p >= i * length // count) & (p < ((i + 1) * length + count - 1) // count)
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)
