"""Layers of mmdet and mmseg that a graph for pictures of any size can hold.

Theirs ask whether a size is special, or take int() of one.  These compute the same
without a question, and round sizes up as `_up` does, a form that the recorder of the
graph can follow through a whole network; with remainders it had not ended after four
minutes on four small blocks.
"""

import copy

import torch
from mmdet.models.backbones.swin import ShiftWindowMSA as DetectionWindows
from mmseg.models.backbones.swin import ShiftWindowMSA as SegmentationWindows
from mmseg.models.utils import Upsample
from torch import Tensor, nn
from torch.nn import functional as F

from mmssm.hosts.extension import extend

SEPARATE = -100.0  # added to the logits of tokens that a shift has put side by side


def with_free_sizes(model: nn.Module) -> nn.Module:
    """A copy with such layers, which computes the same."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, DetectionWindows | SegmentationWindows):
            extend(module, _AnyWindows)
        swapped = _swapped(module)
        if swapped is not None:
            parent, _, child = name.rpartition('.')
            setattr(model.get_submodule(parent), child, swapped)
    return model


def _swapped(module: nn.Module) -> nn.Module | None:
    if isinstance(module, Upsample) and not module.size:
        options = {'mode': module.mode, 'align_corners': module.align_corners}
        return nn.Upsample(scale_factor=module.scale_factor, **options)
    if type(module).__name__ == 'AdaptivePadding':
        tight = module.kernel_size == module.stride and set(module.dilation) == {1}
        if tight and module.padding == 'corner':
            return CornerPadding(module.stride)
    return None


class CornerPadding(nn.Module):
    """Zeros below and to the right until whole patches cover the map."""

    def __init__(self, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (rows, columns) = x.shape[2:], self.patch
        down, right = _up(height, rows) - height, _up(width, columns) - width
        return F.pad(x, (0, right, 0, down))


class _AnyWindows:
    """The attention in shifted windows of Swin, as both packages have it."""

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """(B, H W, C) -> the same shape."""
        height, width = hw_shape
        side, shift = self.window_size, self.shift_size
        down, right = _up(height, side), _up(width, side)
        maps = query.unflatten(1, (height, width))
        maps = F.pad(maps, (0, 0, 0, right - width, 0, down - height))
        maps = maps.roll((-shift, -shift), (1, 2)) if shift else maps
        # (B, rows, w, columns, w, C) -> (windows, w * w, C)
        cut = maps.unflatten(2, (right // side, side))
        cut = cut.unflatten(1, (down // side, side)).transpose(2, 3)
        mask = _apart(down, right, side, shift, query) if shift else None
        y = self.w_msa(cut.flatten(3, 4).flatten(0, 2), mask=mask)
        y = y.view(cut.shape).transpose(2, 3).flatten(1, 4)  # (B, down * right, C)
        # back to their places, by number: a slice that may be all of the map, hence a
        # view, would be a special case
        rows, columns = (
            torch.arange(whole, device=y.device).roll(shift)[:used]
            for used, whole in ((height, down), (width, right))
        )
        return self.drop(y[:, (rows[:, None] * right + columns).flatten()])


def _apart(height: int, width: int, side: int, shift: int, like: Tensor) -> Tensor:
    """(windows, w * w, w * w): 0 for tokens of one region of the map, else SEPARATE.

    height, width: of the map in whole windows, `side` wide.
    """
    rows, columns = (
        (p >= length - side).long() + (p >= length - shift).long()
        for length in (height, width)
        for p in [torch.arange(length, device=like.device)]
    )
    region = 3 * rows[:, None] + columns
    region = region.unflatten(1, (width // side, side))
    region = region.unflatten(0, (height // side, side)).transpose(1, 2)
    region = region.flatten(2, 3).flatten(0, 1)  # (windows, w * w)
    other = region[:, None] != region[:, :, None]
    return SEPARATE * other.to(like.dtype)


def _up(length: int, step: int) -> int:
    """The next multiple of step."""
    return (length + step - 1) // step * step
