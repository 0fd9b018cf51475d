"""MILA, Mamba-inspired linear attention (arXiv 2405.16605)."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmssm.backbones.arch import Arch, per_stage, read_arch
from mmssm.backbones.arguments import MILA as MILA_RULES
from mmssm.backbones.hierarchical import HierarchicalBackbone, Stage, drop_path_rates
from mmssm.layers import (
    MLP,
    ChannelNorm,
    DropPath,
    GatedLinearAttention,
    PaddedConvDownsample,
    PaddedConvStem,
)
from mmssm.layers.arguments import checked
from mmssm.layers.depthwise import depthwise
from mmssm.layers.norms import norm_factory


class MILABlock(nn.Module):
    """Positional convolution and token mixing, then the same with the perceptron.

        x += position1(x);  x += drop(mixer(norm1 x))
        x += position2(x);  x += drop(mlp(norm2 x))
    (B, C, H, W) -> (B, C, H, W).  mixer: see `GatedLinearAttention`.
    """

    def __init__(self, channels: int, heads: int, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.position1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = ChannelNorm(channels)
        self.mixer = GatedLinearAttention(channels, heads)
        self.position2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm2 = ChannelNorm(channels)
        self.mlp = MLP(channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = depthwise(self.position1, x, residual=True)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        x = depthwise(self.position2, x, residual=True)
        return x + self.drop_path(self.mlp(x, self.norm2))


class MILA(HierarchicalBackbone):
    """MILA: linear attention with rotary encoding, in the block of Mamba.

    arch: 'tiny', 'small' or 'base' (sizes of the released models, there called MLLA),
    or dict(channels=(64, 128, 256, 512), depths=(2, 4, 8, 4), heads=(2, 4, 8, 16));
    channels and heads may be one int each, doubled from stage to stage.
    drop_path_rate: of the last block; the others grow linearly from 0.
    norm_cfg: norm of the stem and of the downsampling, see `layers.norms`.
    with_cp: recompute the blocks in the backward pass to save memory.
    in_channels, out_indices, frozen_stages, norm_eval, init_cfg: see
    `HierarchicalBackbone`.

    (B, in_channels, H, W) -> a tuple of (B, C_i, ceil(H / s_i), ceil(W / s_i)) with
    strides s = 4, 8, 16, 32, each after a LayerNorm over its channels.
    Raises ValueError for arguments that do not fit `arguments.MILA`.
    """

    family = 'mila'
    block_width = 'norm1.weight'
    zoo = {
        'tiny': {'channels': 64, 'depths': (2, 4, 8, 4), 'heads': 2},
        'small': {'channels': 64, 'depths': (3, 6, 21, 6), 'heads': 2},
        'base': {'channels': 96, 'depths': (3, 6, 21, 6), 'heads': 3},
    }

    @checked(MILA_RULES)
    def __init__(
        self,
        arch: Arch = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        settings = read_arch(arch, self.zoo)
        channels, depths = settings['channels'], settings['depths']
        heads = per_stage(settings['heads'], depths)
        norm = norm_factory(norm_cfg)
        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for index, width in enumerate(channels):
            downsample = (
                PaddedConvDownsample(channels[index - 1], width, norm)
                if index
                else nn.Identity()
            )
            blocks = [MILABlock(width, heads[index], rate) for rate in rates[index]]
            stages.append(Stage(downsample, blocks, with_cp))
        super().__init__(
            PaddedConvStem(in_channels, channels[0], norm),
            stages,
            stage_channels=channels,
            stage_strides=[4 * 2**i for i in range(len(depths))],
            arch=arch,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=ChannelNorm,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            init_cfg=init_cfg,
        )

    @classmethod
    def options_of(cls, weights: Mapping[str, Tensor]) -> dict[str, object] | None:
        """As `HierarchicalBackbone.options_of`, with heads of 32 channels.

        That is their width in all released models; weights do not tell it.
        """
        options = super().options_of(weights)
        if options is None:
            return None
        heads = tuple(max(1, width // 32) for width in options['arch']['channels'])
        return {**options, 'arch': {**options['arch'], 'heads': heads}}
