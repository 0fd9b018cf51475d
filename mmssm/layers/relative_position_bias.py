"""Relative position bias that follows the grid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.ops.operator import is_exporting


class RelativePositionBias(nn.Module):
    """A bias of attention from the distance of two pixels in row-major order.

    bias: (2 * H0 * W0 - 1,), that of key j and query i of the grid (H0, W0) at index
    H0 * W0 - 1 + j - i, as in Mega.  On another grid the distance is taken apart into
    rows and columns, and the table (2 * H0 - 1, 2 * W0 - 1) of these is resized.

    forward: (H, W) -> (H * W, H * W), rows for queries.
    """

    def __init__(self, grid: Sequence[int]) -> None:
        super().__init__()
        self.grid = tuple(grid)
        height, width = self.grid
        self.bias = nn.Parameter(0.02 * torch.randn(2 * height * width - 1))

    def forward(self, height: int, width: int) -> Tensor:
        table = self._table()
        recorded = is_exporting()  # with sizes that may be any
        if recorded or (height, width) != self.grid:
            size = (2 * height - 1, 2 * width - 1)
            table = F.interpolate(
                table[None, None], size, mode='bilinear', align_corners=False
            )[0, 0]
        if recorded:
            return _read(table, height, width)
        # window y', x' of the table holds the keys of query H - 1 - y', W - 1 - x'
        windows = table.unfold(0, height, 1).unfold(1, width, 1)  # (H, W, H, W)
        return windows.flip(0, 1).reshape(height * width, height * width)

    def _table(self) -> Tensor:
        """(2 * H0 - 1, 2 * W0 - 1): bias of each distance in rows and columns."""
        height, width = self.grid
        rows = torch.arange(1 - height, height, device=self.bias.device)
        columns = torch.arange(1 - width, width, device=self.bias.device)
        return self.bias[height * width - 1 + rows[:, None] * width + columns]


def _read(table: Tensor, height: int, width: int) -> Tensor:
    """The same by index, for sizes that windows of a recorded graph cannot have."""
    rows = torch.arange(height, device=table.device)
    columns = torch.arange(width, device=table.device)
    down = rows - rows[:, None] + height - 1  # (H, H), rows for queries
    right = columns - columns[:, None] + width - 1
    found = table[down[:, None, :, None], right[None, :, None, :]]  # (H, W, H, W)
    return found.reshape(height * width, height * width)
