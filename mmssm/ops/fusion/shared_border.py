"""State fusion and observation with one replicated border, channels last in memory.

A replicate border of d is the inner part of a wider one, and alpha scales the few taps,
not the map.  The adjoint is written by hand: that of h is the same convolution with
reversed taps; for the adjoint of a dilated one libraries take ten times as long.  Only
the inputs are saved: the fused states are computed again for the adjoint, three
depthwise convolutions, not a map kept for every block of a network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.operator import differentiable
from mmssm.ops.precision import wide

SIDES = (-1, 0, 1)
BLOCK = 1 << 16  # elements of a product that stays in cache while it is summed


def state_fusion_shared_border(
    h: Tensor, kernels: Tensor, alpha: Tensor, dilations: tuple[int, ...]
) -> Tensor:
    """Shapes as the naive twin; the result lies channels last."""
    return _observe(h, None, None, None, scaled_taps(kernels, alpha), dilations)


def observe_shared_border(
    h: Tensor,
    C: Tensor,
    u: Tensor,
    D: Tensor,
    kernels: Tensor,
    alpha: Tensor,
    dilations: tuple[int, ...],
    dtype: torch.dtype | None,
) -> Tensor:
    """Shapes as the naive twin; the result lies channels last."""
    y = _observe(h, C, u, D, scaled_taps(kernels, alpha), dilations)
    return y.to(dtype or y.dtype)


def scaled_taps(kernels: Tensor, alpha: Tensor) -> Tensor:
    """alpha_k w_k, (K, C, 1, 3, 3), in the precision of the sums that they go into."""
    kernels, alpha = wide(kernels, alpha)
    return kernels * alpha[:, None, None, None, None]


def fuse(h: Tensor, taps: Tensor, dilations: Sequence[int]) -> Tensor:
    """Sum over all taps: (B, C, H, W), (K, C, 1, 3, 3) -> (B, C, H, W); no autograd."""
    bordered = _add_border(_channels_last(h), max(dilations))
    _, _, height, width = bordered.shape
    mixed = None
    for w, d in zip(taps, dilations, strict=True):
        unused = max(dilations) - d
        view = bordered[:, :, unused : height - unused, unused : width - unused]
        near = F.conv2d(view, w, dilation=d, groups=h.shape[1])
        mixed = near if mixed is None else mixed.add_(near)
    return _channels_last(mixed)


def fuse_adjoint(
    grad: Tensor, h: Tensor, taps: Tensor, dilations: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Gradients of h and of the taps, given that of `fuse`'s result."""
    grad, reach = _channels_last(grad), max(dilations)
    bordered = _add_border(_channels_last(h), reach)
    grad_taps = _taps_gradient(grad, bordered, dilations)
    padded, grad_bordered = F.pad(grad, (reach,) * 4), None
    for w, d in zip(taps.flip(3, 4), dilations, strict=True):
        back = F.conv2d(padded, w, padding=d, dilation=d, groups=h.shape[1])
        grad_bordered = back if grad_bordered is None else grad_bordered.add_(back)
    return _border_adjoint(grad_bordered, reach), grad_taps


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _add_border(h: Tensor, reach: int) -> Tensor:
    """Replicate padding by reach on all sides."""
    batch, channels, height, width = h.shape
    size = (batch, channels, height + 2 * reach, width + 2 * reach)
    bordered = torch.empty(
        size, dtype=h.dtype, device=h.device, memory_format=torch.channels_last
    )
    rows = bordered[:, :, :, reach:-reach]
    rows[:, :, reach:-reach] = h
    rows[:, :, :reach] = h[:, :, :1]
    rows[:, :, -reach:] = h[:, :, -1:]
    bordered[..., :reach] = bordered[..., reach, None]
    bordered[..., -reach:] = bordered[..., -reach - 1, None]
    return bordered


def _border_adjoint(grad: Tensor, reach: int) -> Tensor:
    """Hand what the border got to the outermost cells of the map; grad is used up."""
    rows = grad[..., reach:-reach]
    rows[..., 0] += grad[..., :reach].sum(-1)
    rows[..., -1] += grad[..., -reach:].sum(-1)
    inner = rows[:, :, reach:-reach]
    inner[:, :, 0] += rows[:, :, :reach].sum(2)
    inner[:, :, -1] += rows[:, :, -reach:].sum(2)
    return _channels_last(inner)


def _taps_gradient(grad: Tensor, bordered: Tensor, dilations: Sequence[int]) -> Tensor:
    """(K, C, 1, 3, 3): for each tap the product of the gradient and what it reads.

    A block of rows at a time: products stay in cache, and short sums lose no digits.
    """
    reach = max(dilations)
    grad, bordered = (t.permute(0, 2, 3, 1) for t in (grad, bordered))
    batch, height, width, channels = grad.shape
    offsets = [(i * d, j * d) for d in dilations for i in SIDES for j in SIDES]
    rows = max(1, BLOCK // (batch * width * channels))
    blocks = []
    for start in range(0, height, rows):
        part = grad[:, start : start + rows]
        products = {}
        for down, right in offsets:
            if (down, right) not in products:  # all dilations share the middle
                first, left = reach + start + down, reach + right
                cells = bordered[:, first : first + part.shape[1], left : left + width]
                products[down, right] = (part * cells).sum((0, 1, 2))
        blocks.append(torch.stack([products[offset] for offset in offsets]))
    sums = torch.stack(blocks).sum(0)  # (9 K, C)
    return sums.unflatten(0, (-1, 1, 3, 3)).movedim(-1, 1).contiguous()


def _forward(
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    taps: Tensor,
    dilations: Sequence[int],
) -> Tensor:
    """C * fuse(h) + D * u; without C, u and D the fusion alone."""
    fused = fuse(h, taps, dilations)
    if C is None:
        return fused
    return fused.mul_(C).addcmul_(u, D[:, None, None])


def _adjoint(
    grad: Tensor,
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    taps: Tensor,
    dilations: Sequence[int],
) -> list[Tensor]:
    """Gradients of h, of C, u and D where given, and of the taps."""
    if C is None:
        return list(fuse_adjoint(grad, h, taps, dilations))
    grad_C = (fuse(h, taps, dilations).mul_(grad)).sum(1, keepdim=True)
    grad_u = grad * D[:, None, None]
    grad_D = (grad * u).sum((0, 2, 3))
    grad_h, grad_taps = fuse_adjoint(grad * C, h, taps, dilations)
    return [grad_h, grad_C, grad_u, grad_D, grad_taps]


def _like(h: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(h, memory_format=torch.channels_last)


def _adjoint_like(
    grad: Tensor,
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    taps: Tensor,
    *rest: object,
) -> list[Tensor]:
    grad_h = torch.empty_like(h, memory_format=torch.channels_last)
    if C is None:
        return [grad_h, taps.new_empty(taps.shape)]
    sums = grad.sum(1, keepdim=True)
    others = [sums, grad * D[:, None, None], D.new_empty(D.shape)]
    return [grad_h, *others, taps.new_empty(taps.shape)]


_observe = differentiable(
    'mmssm::observe', _forward, _adjoint, _like, _adjoint_like, widens=True
)
