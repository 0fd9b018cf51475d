"""Mega (arXiv 2209.10655) on images, as in the tables of the 2-D SSM (2306.06635)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.backbones.arch import Arch, read_arch
from mmssm.backbones.arguments import MEGA
from mmssm.backbones.hierarchical import HierarchicalBackbone, Stage, drop_path_rates
from mmssm.layers import (
    SSM2D,
    ChannelNorm,
    DropPath,
    ExponentialMovingAverage,
    GatedAttention,
    PatchConv,
)
from mmssm.layers.arguments import checked
from mmssm.layers.pyramid import STRIDES, crop, pyramid_level
from mmssm.ops.operator import is_exporting


class PatchEmbedding(nn.Module):
    """Patches and their positions: (B, in, H, W) -> (B, C, ceil(H/p), ceil(W/p)).

    position: (C, H0, W0), of the training grid; resized for other grids.
    """

    def __init__(
        self, in_channels: int, channels: int, patch: int, grid: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv = PatchConv(in_channels, channels, patch)
        self.position = nn.Parameter(torch.empty(channels, *grid))
        nn.init.trunc_normal_(self.position, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x, position = self.conv(x), self.position
        # a recorded graph is for any size; resizing to the same size changes nothing
        if is_exporting() or x.shape[2:] != position.shape[1:]:
            position = F.interpolate(
                position[None], x.shape[2:], mode='bicubic', align_corners=False
            )[0]
        return x + position


class MegaBlock(nn.Module):
    """Gated attention, then x += drop(fc2(SiLU(fc1(norm x)))); keeps (B, C, H, W)."""

    def __init__(
        self, attention: GatedAttention, channels: int, hidden: int, rate: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        for linear in (self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.drop_path = DropPath(rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        x = x + self.drop_path(self.fc2(F.silu(self.fc1(self.norm(x)))))
        return x.permute(0, 3, 1, 2)


class Mega(HierarchicalBackbone):
    """Mega, a transformer of one stride, with a pyramid on top.

    arch: 'tiny' (its sizes follow from the published numbers of parameters), or
    dict(channels=(192,) * 4, depths=(3, 3, 3, 3), patch=16, shared=64, expanded=384,
    hidden=384): four groups of blocks of one width, of which each gives a level;
    shared and expanded are widths of queries and values, hidden of the perceptron.
    mixer: what queries, keys and gates see, one of 'ssm2d', 'ema', 'none'.
    num_states: of the 2-D SSM and of the average.  num_ssms, directions,
    complex_states, skip, norm, tolerance, decay_A: of the 2-D SSM, see `SSM2D`.
    train_size: int or (height, width) of the training images; positions are learned on
    the grid of patches that this gives, and resized for other images.
    drop_path_rate: of the last block; the others grow linearly from 0.
    pyramid: False gives the maps as they are, normed, all of the stride `patch`, as a
    classifier wants its last one.
    with_cp: recompute the blocks in the backward pass to save memory.
    in_channels, out_indices, frozen_stages, norm_eval, init_cfg: see
    `HierarchicalBackbone`, where a group of blocks is a stage.

    (B, in_channels, H, W) -> a tuple of (B, C, ceil(H / s_i), ceil(W / s_i)) with
    strides s = 4, 8, 16, 32, or s = patch.
    Raises ValueError for arguments that do not fit `arguments.MEGA`.
    """

    family = 'ssm2d_mega'
    block_width = 'attention.norm.weight'
    zoo = {
        'tiny': {
            'channels': (192, 192, 192, 192),
            'depths': (3, 3, 3, 3),
            'patch': 16,
            'shared': 64,
            'expanded': 384,
            'hidden': 384,
        }
    }

    @checked(MEGA)
    def __init__(
        self,
        arch: Arch = 'tiny',
        mixer: str = 'ssm2d',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        num_states: int = 16,
        num_ssms: int = 8,
        directions: int = 4,
        complex_states: bool = False,
        skip: bool = False,
        norm: bool = False,
        tolerance: float = 0.0,
        decay_A: bool = True,
        train_size: int | Sequence[int] = 224,
        drop_path_rate: float = 0.0,
        pyramid: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        settings = read_arch(arch, self.zoo)
        channels, patch = settings['channels'][0], settings['patch']
        grid = _grid(train_size, patch)

        def mixing() -> nn.Module:
            if mixer == 'ssm2d':
                return SSM2D(
                    channels,
                    num_states=num_states,
                    num_ssms=num_ssms,
                    directions=directions,
                    complex_states=complex_states,
                    skip=skip,
                    norm=norm,
                    tolerance=tolerance,
                    decay_A=decay_A,
                )
            if mixer == 'ema':
                return ExponentialMovingAverage(channels, num_states)
            return nn.Identity()

        def block(rate: float) -> MegaBlock:
            attention = GatedAttention(
                channels,
                mixing(),
                grid,
                settings['shared'],
                settings['expanded'],
                rate,
            )
            return MegaBlock(attention, channels, settings['hidden'], rate)

        super().__init__(
            PatchEmbedding(in_channels, channels, patch, grid),
            [
                Stage(nn.Identity(), [block(rate) for rate in rates], with_cp)
                for rates in drop_path_rates(drop_path_rate, settings['depths'])
            ],
            stage_channels=settings['channels'],
            stage_strides=STRIDES if pyramid else (patch,) * len(STRIDES),
            arch=arch,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            init_cfg=init_cfg,
        )
        for index, stride in zip(self.out_indices, self.strides, strict=True):
            steps = OrderedDict(norm=ChannelNorm(channels))
            if pyramid:
                steps['level'] = pyramid_level(channels, patch, stride)
            self.out_norms[str(index)] = nn.Sequential(steps)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = zip(super().forward(x), self.strides, strict=True)
        return tuple(crop(y, x.shape[2:], stride) for y, stride in outputs)

    @classmethod
    def options_of(cls, weights: Mapping[str, Tensor]) -> dict[str, object] | None:
        options = super().options_of(weights)
        if options is None:
            return None
        first = 'stages.0.blocks.0.'
        patch = weights['stem.conv.weight'].shape[-1]
        sizes = {
            'patch': patch,
            'shared': weights[f'{first}attention.scale'].shape[1],
            'expanded': len(weights[f'{first}attention.value.weight']),
            'hidden': len(weights[f'{first}fc1.weight']),
        }
        grid = weights['stem.position'].shape[1:]
        return {
            **options,
            'arch': {**options['arch'], **sizes},
            'train_size': tuple(patch * n for n in grid),
        }


def _grid(train_size: int | Sequence[int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches of a training image."""
    sides = [train_size] * 2 if isinstance(train_size, int) else list(train_size)
    return -(-sides[0] // patch), -(-sides[1] // patch)
