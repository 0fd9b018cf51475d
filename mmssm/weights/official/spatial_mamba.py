"""Released Spatial-Mamba: its names, fusion kernels and downsampling."""

import re

import torch

from mmssm.weights.official.family import Family, StateDict


def _stack_fusion_kernels(weights: StateDict) -> StateDict:
    """Three kernels (C, 1, 3, 3) -> one parameter (3, C, 3, 3)."""
    stacked = {}
    for name, weight in weights.items():
        if not re.search(r'kernel_3(_[12])?$', name):
            stacked[name] = weight
        elif name.endswith('kernel_3'):
            parts = [weight, weights[f'{name}_1'], weights[f'{name}_2']]
            stacked[name.replace('kernel_3', 'kernels')] = torch.cat(
                parts, 1
            ).transpose(0, 1)
    return stacked


def _spatial_mamba(weights: StateDict) -> StateDict:
    """Open each stage with the downsampling that closed the one before."""
    moved = {}
    for name, weight in _stack_fusion_kernels(weights).items():
        found = re.match(r'stages\.(\d+)\.downsample\.conv\.(.*)', name)
        if found:
            name = f'stages.{int(found[1]) + 1}.downsample.{found[2]}'
        moved[name] = weight
    return moved


FAMILIES = {
    'spatial_mamba': Family(
        signature=r'layers\.\d+\.blocks\.\d+\.self_attention\.state_fusion\.alpha$',
        renames=(
            (r'^patch_embed\.', 'stem.'),
            (r'^layers\.', 'stages.'),
            (r'^outnorm(\d+)\.', r'out_norms.\1.'),
            (r'\.cpe([12])\.', r'.position\1.'),
            (r'\.ln_([12])\.', r'.norm\1.'),
            (r'\.self_attention\.', '.ssm.'),
            (r'\.conv2d\.', '.conv.'),
            (r'\.x_proj_weight$', '.x_proj.weight'),
            (r'\.dt_projs_(weight|bias)$', r'.dt_proj.\1'),
            (r'\.A_logs$', '.A_log'),
            (r'\.Ds$', '.D'),
        ),
        finish=_spatial_mamba,
    ),
}
