"""The layer beside, or in the place of, a map of the host; maps in three layouts."""

import torch
from torch import Tensor, nn


class Mix(nn.Module):
    """A layer in the place of the host's own map, or growing beside it.

    ssm2d: (B, C, H, W) -> (B, C, H, W).  gain: (C,), zero at first, or None.
    Without a gain the result is ssm2d(x), with one it is host + gain * ssm2d(x).
    """

    def __init__(self, layer: nn.Module, channels: int, grows: bool) -> None:
        super().__init__()
        self.channels = channels
        self.ssm2d = layer
        self.gain = nn.Parameter(torch.zeros(channels)) if grows else None

    def forward(self, x: Tensor, host: Tensor | None = None) -> Tensor:
        y = self.ssm2d(x)
        if self.gain is None:
            return y
        return torch.addcmul(host, self.gain[:, None, None], y).to(host.dtype)


def mix_bchw(mix: Mix, maps: Tensor) -> Tensor:
    """(B, C, H, W) -> the same shape."""
    return mix(maps, maps)


def mix_bhwc(mix: Mix, maps: Tensor) -> Tensor:
    """(B, H, W, C) -> the same shape, contiguous."""
    maps = maps.permute(0, 3, 1, 2)
    return mix(maps, maps).permute(0, 2, 3, 1).contiguous()


def mix_tokens(mix: Mix, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, leading + H W, C) -> the same shape, contiguous; the leading tokens stay.

    size: H and W.  Raises ValueError for fewer tokens than the grid has.
    """
    height, width = size
    leading = tokens.shape[1] - height * width
    if leading < 0:
        raise ValueError(
            f'{tokens.shape[1]} tokens do not fill a map of {height} x {width}; the '
            '2-D SSM needs all of them: drop none (patch_drop_rate=0 of timm)'
        )
    maps = tokens[:, leading:].transpose(1, 2).unflatten(2, (height, width))
    mixed = mix(maps, maps).flatten(2).transpose(1, 2)
    if leading:
        mixed = torch.cat([tokens[:, :leading], mixed], dim=1)
    return mixed.contiguous()
