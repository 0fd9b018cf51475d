"""Tensor functions of the package; torch is all they need.

Letters used in signatures and shapes, with the papers' symbols:

    B, C, H, W   batch, channels, height, width of a map
    L            length of a sequence, H * W in row-major order for a map
    D            channels of the inner (expanded) map of a block
    N            states per channel (d_state)
    S            state-space models of a 2-D SSM, num_ssms * directions
    G            groups of channels that share B
    R            rank of the step projection (dt_rank)
    K            dilations of the state fusion, Omega in Spatial-Mamba
    A            (D, N) continuous-time decay, negative; A in Mamba
    B, C, D      input matrix, observation and skip of the state equations
    K[i, j]      kernel of a filter
    h            state
    q, k         query and key maps; Q and K in VMINet
    w            weight of a position in a sum over the map
    x, y         input and output of a mixing
    delta, dt    step before and after the softplus; Delta in Mamba

B, C, D and K mean two things, as in the papers: numbers inside a shape, tensors where
they are arguments or have an index.  S is a number always.
"""

from mmssm.ops.attention import (
    mixing_matrix,
    mixing_rank,
    resample_positions,
    separable_attention,
    windowed_separable_attention,
)
from mmssm.ops.cross_scan import cross_scan
from mmssm.ops.depthwise import depthwise_conv
from mmssm.ops.filter import ssm2d, ssm2d_kernel, ssm2d_prepare, ssm2d_support
from mmssm.ops.fusion import merge_kernels, observe, state_fusion
from mmssm.ops.gate import gated_norm
from mmssm.ops.linear import (
    attention_matrix,
    linear_attention,
    rotary_angles,
    rotate,
)
from mmssm.ops.norm import channel_norm
from mmssm.ops.recomputed import linear_of
from mmssm.ops.scan import selective_scan

__all__ = [
    'attention_matrix',
    'channel_norm',
    'cross_scan',
    'depthwise_conv',
    'gated_norm',
    'linear_attention',
    'linear_of',
    'merge_kernels',
    'mixing_matrix',
    'mixing_rank',
    'observe',
    'resample_positions',
    'rotary_angles',
    'rotate',
    'selective_scan',
    'separable_attention',
    'ssm2d',
    'ssm2d_kernel',
    'ssm2d_prepare',
    'ssm2d_support',
    'state_fusion',
    'windowed_separable_attention',
]
