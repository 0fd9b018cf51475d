"""Released VMamba: its names, and parameters that hold all directions in one axis."""

import re

from mmssm.weights.official.family import Family, StateDict

DIRECTIONS = 4


def _vmamba(weights: StateDict) -> StateDict:
    """Give directions an axis; open each stage with the downsampling before it."""
    done = {}
    for name, weight in weights.items():
        found = re.match(r'stages\.(\d+)\.downsample\.(.*)', name)
        if found:
            name = f'stages.{int(found[1]) + 1}.downsample.{found[2]}'
        if re.search(r'\.ssm\.(A_log|D)$', name):  # (4 D, ...)
            weight = weight.unflatten(0, (DIRECTIONS, -1))
        if re.search(r'\.(in_proj|out_proj|fc1|fc2)\.weight$', name):
            weight = weight.flatten(1)  # (O, I, 1, 1) where they are convolutions
        done[name] = weight
    return done


FAMILIES = {
    'vmamba': Family(
        signature=r'layers\.\d+\.blocks\.\d+\.(op|self_attention)\.Ds$',
        renames=(
            (r'^patch_embed\.(0|proj)\.', 'stem.0.conv.'),
            (r'^patch_embed\.(2|norm)\.', 'stem.0.norm.'),
            (r'^patch_embed\.5\.', 'stem.1.conv.'),
            (r'^patch_embed\.7\.', 'stem.1.norm.'),
            (r'^layers\.', 'stages.'),
            (r'^outnorm(\d+)\.', r'out_norms.\1.'),
            (r'\.downsample\.1\.', '.downsample.conv.'),
            (r'\.downsample\.3\.', '.downsample.norm.'),
            (r'(\.blocks\.\d+)\.(norm|ln_1)\.', r'\1.norm1.'),
            (r'\.(op|self_attention)\.', '.ssm.'),
            (r'\.conv2d\.', '.conv.'),
            (r'\.x_proj_weight$', '.x_proj'),
            (r'\.dt_projs_weight$', '.dt_proj'),
            (r'\.dt_projs_bias$', '.dt_bias'),
            (r'\.A_logs$', '.A_log'),
            (r'\.Ds$', '.D'),
        ),
        finish=_vmamba,
    ),
}
