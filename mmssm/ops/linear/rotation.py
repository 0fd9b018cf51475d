"""Rotary encoding of the positions of a map, of any size."""

import torch
from torch import Tensor


def rotary_angles(size: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """Angles by which the pairs of channels turn at each position.

        f_i = 10000^(-4 i / C)
        angle_p,i = row p * f_i                  for i < C / 4
        angle_p,i = column p * f_(i - C / 4)     from there on
    (RoPE: arXiv 2104.09864, with half of the channels for the rows and half for the
    columns.)

    size: (H, W).  channels: C, a multiple of 4.  like: gives dtype and device.  Returns
    (L, C / 2): the angle of channels 2 i and 2 i + 1.
    """
    quarter = channels // 4
    options = {'dtype': like.dtype, 'device': like.device}
    frequencies = 1 / 10000 ** (torch.arange(quarter, **options) / quarter)
    rows, columns = (
        torch.arange(length, **options)[:, None] * frequencies for length in size
    )
    each = torch.broadcast_tensors(rows[:, None], columns[None])
    return torch.cat(each, -1).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs of channels: (..., L, C), (L, C / 2) -> (..., L, C).

    (x_2i, x_2i+1) -> (cos x_2i - sin x_2i+1, sin x_2i + cos x_2i+1).
    """
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    turned = (cos * first - sin * second, sin * first + cos * second)
    return torch.stack(turned, -1).flatten(-2)
