"""ConvNeXt (arXiv 2201.03545), a host of the 2-D SSM."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mmssm.backbones.arch import Arch, read_arch
from mmssm.backbones.arguments import CONVNEXT
from mmssm.backbones.hierarchical import HierarchicalBackbone, Stage, drop_path_rates
from mmssm.layers import MLP, ChannelNorm, DropPath, PatchConv
from mmssm.layers.arguments import checked

EPS = 1e-6


class ConvNeXtBlock(nn.Module):
    """x += drop(gamma * mlp(norm(depthwise_conv x))), (B, C, H, W) throughout.

    gamma: (C,), the layer scale.
    """

    def __init__(
        self, channels: int, layer_scale: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(
            channels, channels, 7, padding=3, groups=channels
        )
        nn.init.trunc_normal_(self.depthwise_conv.weight, std=0.02)
        nn.init.zeros_(self.depthwise_conv.bias)
        self.norm = ChannelNorm(channels, eps=EPS)
        self.mlp = MLP(channels)
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale)))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.depthwise_conv(x), self.norm)
        return x + self.drop_path(self.gamma[:, None, None] * y)


class ConvNeXt(HierarchicalBackbone):
    """ConvNeXt, for stacks without mmpretrain.

    arch: 'tiny', 'small' or 'base' (table 1 of the paper's released code), or
    dict(channels=(96, 192, 384, 768), depths=(3, 3, 9, 3)); channels may be one int,
    doubled from stage to stage.
    drop_path_rate: of the last block; the others grow linearly from 0.
    layer_scale: initial value.
    with_cp: recompute the blocks in the backward pass to save memory.
    in_channels, out_indices, frozen_stages, norm_eval, init_cfg: see
    `HierarchicalBackbone`; the released weights and those of mmpretrain load as they
    are.

    (B, in_channels, H, W) -> a tuple of (B, C_i, ceil(H / s_i), ceil(W / s_i)) with
    strides s = 4, 8, 16, 32, each after a LayerNorm over its channels.
    Raises ValueError for arguments that do not fit `arguments.CONVNEXT`.
    """

    family = 'convnext'
    block_width = 'gamma'
    classifier_norm = partial(nn.LayerNorm, eps=EPS)
    norm_last = True
    zoo = {
        'tiny': {'channels': 96, 'depths': (3, 3, 9, 3)},
        'small': {'channels': 96, 'depths': (3, 3, 27, 3)},
        'base': {'channels': 128, 'depths': (3, 3, 27, 3)},
    }

    @checked(CONVNEXT)
    def __init__(
        self,
        arch: Arch = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-6,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        settings = read_arch(arch, self.zoo)
        channels, depths = settings['channels'], settings['depths']
        stages = []
        for index, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            width = channels[index]
            blocks = [ConvNeXtBlock(width, layer_scale, rate) for rate in rates]
            between = _downsample(channels[index - 1], width) if index else None
            stages.append(Stage(between or nn.Identity(), blocks, with_cp))
        super().__init__(
            _stem(in_channels, channels[0]),
            stages,
            stage_channels=channels,
            stage_strides=[4 * 2**i for i in range(len(depths))],
            arch=arch,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=lambda count: ChannelNorm(count, eps=EPS),
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            init_cfg=init_cfg,
        )


def _stem(in_channels: int, channels: int) -> nn.Sequential:
    conv = PatchConv(in_channels, channels, 4)
    return nn.Sequential(OrderedDict(conv=conv, norm=ChannelNorm(channels, eps=EPS)))


def _downsample(in_channels: int, channels: int) -> nn.Sequential:
    norm = ChannelNorm(in_channels, eps=EPS)
    return nn.Sequential(
        OrderedDict(norm=norm, conv=PatchConv(in_channels, channels, 2))
    )
