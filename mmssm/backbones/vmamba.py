"""VMamba (arXiv 2401.10166)."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmssm.backbones.arch import Arch, read_arch
from mmssm.backbones.arguments import VMAMBA
from mmssm.backbones.hierarchical import HierarchicalBackbone, Stage, drop_path_rates
from mmssm.layers import MLP, ChannelNorm, ConvNormAct, CrossScanSSM, DropPath
from mmssm.layers.arguments import checked


class VMambaBlock(nn.Module):
    """Token mixing, then the perceptron, each with a norm before and a residual.

        x += drop(ssm(norm1 x));  x += drop(mlp(norm2 x))
    (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        expand: int = 1,
        num_states: int = 1,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.ssm = CrossScanSSM(channels, expand, num_states)
        self.norm2 = ChannelNorm(channels)
        self.mlp = MLP(channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ssm(x, self.norm1))
        return x + self.drop_path(self.mlp(x, self.norm2))


class VMamba(HierarchicalBackbone):
    """VMamba: every block scans the map in four directions.

    arch: 'tiny', 'small' or 'base' (sizes of the released models: s1l8, s2l15 and s2l15
    in the tables of the authors), 'tiny_s2l5' (their other tiny one), or
    dict(channels=(96, 192, 384, 768), depths=(2, 2, 8, 2), expand=1); channels may be
    one int, doubled from stage to stage; expand widens the scan.
    num_states: states per channel, 1 in all released models.
    drop_path_rate: of the last block; the others grow linearly from 0.
    with_cp: recompute the blocks in the backward pass to save memory.
    in_channels, out_indices, frozen_stages, norm_eval, init_cfg: see
    `HierarchicalBackbone`.

    (B, in_channels, H, W) -> a tuple of (B, C_i, ceil(H / s_i), ceil(W / s_i)) with
    strides s = 4, 8, 16, 32, each after a LayerNorm over its channels.
    Raises ValueError for arguments that do not fit `arguments.VMAMBA`.
    """

    family = 'vmamba'
    block_width = 'norm1.weight'
    zoo = {
        'tiny': {'channels': 96, 'depths': (2, 2, 8, 2), 'expand': 1},
        'tiny_s2l5': {'channels': 96, 'depths': (2, 2, 5, 2), 'expand': 2},
        'small': {'channels': 96, 'depths': (2, 2, 15, 2), 'expand': 2},
        'base': {'channels': 128, 'depths': (2, 2, 15, 2), 'expand': 2},
    }

    @checked(VMAMBA)
    def __init__(
        self,
        arch: Arch = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_states: int = 1,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        settings = read_arch(arch, self.zoo)
        channels, depths = settings['channels'], settings['depths']
        expand = settings['expand']
        stages = []
        for index, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            width = channels[index]
            blocks = [VMambaBlock(width, expand, num_states, rate) for rate in rates]
            between = _halved(channels[index - 1], width) if index else nn.Identity()
            stages.append(Stage(between, blocks, with_cp))
        super().__init__(
            _stem(in_channels, channels[0]),
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
        options = super().options_of(weights)
        if options is None:
            return None
        first = 'stages.0.blocks.0.ssm.'
        wide, width = weights[f'{first}in_proj.weight'].shape
        arch = {**options['arch'], 'expand': wide // width}
        states = weights[f'{first}A_log'].shape[2]
        return {**options, 'arch': arch, 'num_states': states}


def _halved(in_channels: int, channels: int, **options: nn.Module) -> ConvNormAct:
    """conv 3x3 /2 and a norm: ceil(H / 2), ceil(W / 2)."""
    return ConvNormAct(
        in_channels, channels, 3, stride=2, bias=True, norm=ChannelNorm, **options
    )


def _stem(in_channels: int, channels: int) -> nn.Sequential:
    half = channels // 2
    return nn.Sequential(
        _halved(in_channels, half, act=nn.GELU()), _halved(half, channels)
    )
