"""Layers of the package: parameters and their initialisation; torch is all they need.

Maps are (B, C, H, W) at every boundary.  Computation is channels last in memory, so
that inputs in `torch.channels_last` are never copied to change layout.
"""

from mmssm.layers.channel_norm import ChannelNorm
from mmssm.layers.conv_downsample import ConvDownsample, PaddedConvDownsample
from mmssm.layers.conv_norm_act import ConvNormAct
from mmssm.layers.conv_stem import ConvStem, PaddedConvStem
from mmssm.layers.cross_scan_ssm import CrossScanSSM
from mmssm.layers.drop_path import DropPath
from mmssm.layers.exponential_moving_average import ExponentialMovingAverage
from mmssm.layers.gated_attention import GatedAttention
from mmssm.layers.linear_attention import GatedLinearAttention, LinearAttention
from mmssm.layers.mlp import MLP
from mmssm.layers.normed_pooling import NormedPooling
from mmssm.layers.patch_conv import PatchConv
from mmssm.layers.relative_position_bias import RelativePositionBias
from mmssm.layers.separable_attention import SeparableAttention
from mmssm.layers.ssm2d import SSM2D
from mmssm.layers.state_fusion import StateFusion
from mmssm.layers.structure_aware_ssm import StructureAwareSSM

__all__ = [
    'MLP',
    'SSM2D',
    'ChannelNorm',
    'ConvDownsample',
    'ConvNormAct',
    'ConvStem',
    'CrossScanSSM',
    'DropPath',
    'ExponentialMovingAverage',
    'GatedAttention',
    'GatedLinearAttention',
    'LinearAttention',
    'NormedPooling',
    'PaddedConvDownsample',
    'PaddedConvStem',
    'PatchConv',
    'RelativePositionBias',
    'SeparableAttention',
    'StateFusion',
    'StructureAwareSSM',
]
