"""VMINet (arXiv 2501.02040)."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmssm.backbones.arch import Arch, read_arch
from mmssm.backbones.arguments import VMINET
from mmssm.backbones.hierarchical import HierarchicalBackbone, Stage, drop_path_rates
from mmssm.layers import ConvNormAct, DropPath, SeparableAttention
from mmssm.layers.arguments import checked
from mmssm.layers.conv_norm_act import NormFactory
from mmssm.layers.norms import norm_factory

STEM_CHANNELS = 32


class VMINetBlock(nn.Module):
    """Local mixing, separable self-attention, projection; one residual around all.

        x += drop(project(ReLU6(attention(local x))))
    (B, C, H, W) -> (B, C, H, W).  local: depthwise 7x7 and a norm.  project: 1x1 and a
    norm.  attention: see `SeparableAttention`.
    """

    def __init__(
        self,
        channels: int,
        attention: SeparableAttention,
        norm: NormFactory,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        wide = attention.query.out_channels
        self.local = ConvNormAct(
            channels, channels, 7, groups=channels, bias=True, norm=norm
        )
        self.attention = attention
        self.act = nn.ReLU6()
        self.project = ConvNormAct(wide, channels, 1, bias=True, norm=norm)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.local(x))
        return x + self.drop_path(self.project(self.act(y)))


class VMINet(HierarchicalBackbone):
    """VMINet: separable self-attention with learned position weights, at every size.

    arch: 'ti', 'xs', 's' or 'b' (the released code), or
    dict(channels=(48, 96, 192, 384), depths=(2, 2, 18, 2), expand=2); channels may be
    one int, doubled from stage to stage; expand widens the attention.
    train_size: int or (height, width) of the training images, 224 for the released
    weights; the position weights are learned on the grid this gives in each stage.
    resample: what an input of another size does, one of 'bicubic', 'bilinear', 'area',
    'window', 'mean'; see `SeparableAttention`.
    drop_path_rate: of the last block; the others grow linearly from 0.
    norm_cfg: every norm, see `layers.norms`.
    with_cp: recompute the blocks in the backward pass to save memory.
    in_channels, out_indices, frozen_stages, norm_eval, init_cfg: see
    `HierarchicalBackbone`.

    (B, in_channels, H, W) -> a tuple of (B, C_i, ceil(H / s_i), ceil(W / s_i)) with
    strides s = 4, 8, 16, 32.
    Raises ValueError for arguments that do not fit `arguments.VMINET`.
    """

    family = 'vminet'
    block_width = 'project.conv.weight'
    classifier_norm = nn.BatchNorm2d
    zoo = {
        'ti': {'channels': 24, 'depths': (2, 2, 18, 2), 'expand': 2},
        'xs': {'channels': 48, 'depths': (2, 2, 18, 2), 'expand': 2},
        's': {'channels': 48, 'depths': (2, 2, 18, 2), 'expand': 4},
        'b': {'channels': 96, 'depths': (2, 2, 18, 2), 'expand': 2},
    }

    @checked(VMINET)
    def __init__(
        self,
        arch: Arch = 'xs',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        train_size: int | Sequence[int] = 224,
        resample: str = 'bicubic',
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        settings = read_arch(arch, self.zoo)
        channels, depths = settings['channels'], settings['depths']
        expand = settings['expand']
        strides = [4 * 2**i for i in range(len(depths))]
        grids = _grids(train_size, strides)
        norm = norm_factory(norm_cfg)

        def block(width: int, grid: tuple[int, int], rate: float) -> VMINetBlock:
            attention = SeparableAttention(width, expand, grid, resample)
            return VMINetBlock(width, attention, norm, rate)

        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for index, width in enumerate(channels):
            before = channels[index - 1] if index else STEM_CHANNELS
            downsample = ConvNormAct(before, width, 3, stride=2, bias=True, norm=norm)
            blocks = [block(width, grids[index], rate) for rate in rates[index]]
            stages.append(Stage(downsample, blocks, with_cp))
        super().__init__(
            ConvNormAct(
                in_channels,
                STEM_CHANNELS,
                3,
                stride=2,
                bias=True,
                norm=norm,
                act=nn.ReLU6(),
            ),
            stages,
            stage_channels=channels,
            stage_strides=strides,
            arch=arch,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            init_cfg=init_cfg,
        )

    @classmethod
    def options_of(cls, weights: Mapping[str, Tensor]) -> dict[str, object] | None:
        options = super().options_of(weights)
        if options is None:
            return None
        first = 'stages.0.blocks.0.'
        width, wide = weights[f'{first}{cls.block_width}'].shape[:2]
        grid = weights[f'{first}attention.position'].shape
        arch = {**options['arch'], 'expand': wide // width}
        return {**options, 'arch': arch, 'train_size': tuple(4 * n for n in grid)}


def _grids(size: int | Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(h, w) at each stride of images of this size, one int or (height, width)."""
    pair = (size, size) if isinstance(size, int) else size
    return [tuple(math.ceil(n / stride) for n in pair) for stride in strides]
