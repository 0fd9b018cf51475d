"""From the last map of a backbone to what a classifier's linear layer sees."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmssm.layers.norms import norm_factory


class NormedPooling(nn.Module):
    """The mean over a map, after a norm and a layer that some classifiers have.

        y = mean_p SiLU(W norm(x_p) + b),   or   y = mean_p norm(x_p)
    For backbones whose outputs have no norm (VMINet), and for Mega, whose released
    classifier has a layer before the mean; for others it is the plain mean.

    in_channels: of the last map.  norm_cfg: see `layers.norms`; None: no norm.
    project: the layer of Mega, from in_channels to as many, N(0, 0.02^2) at first.

    maps: (B, C, H, W) each, of which the last one counts.  Returns ((B, C),), a tuple,
    which heads of mmpretrain take.
    Raises ValueError for a norm_cfg of which no norm can be made.
    """

    def __init__(
        self,
        in_channels: int,
        norm_cfg: Mapping[str, object] | None = None,
        project: bool = False,
    ) -> None:
        super().__init__()
        make = norm_factory(norm_cfg) if norm_cfg is not None else None
        self.norm = make(in_channels) if make else nn.Identity()
        self.project = _projection(in_channels) if project else nn.Identity()

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        x = self.norm(maps[-1])  # (B, C, H, W)
        return (self.project(x.permute(0, 2, 3, 1)).mean((1, 2)),)


def _projection(channels: int) -> nn.Sequential:
    linear = nn.Linear(channels, channels)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(OrderedDict(linear=linear, act=nn.SiLU()))
