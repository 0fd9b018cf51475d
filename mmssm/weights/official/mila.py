"""Released MILA, there called MLLA: its names, its downsampling, no rotary tables."""

import re

from mmssm.weights.official.family import Family, StateDict


def _mila(weights: StateDict) -> StateDict:
    """Open each stage with the downsampling that closed the one before.

    The tables of rotations, of one fixed resolution, are left out: ours follow from
    the map.
    """
    moved = {}
    for name, weight in weights.items():
        if name.endswith('.rope.rotations'):
            continue
        found = re.match(r'stages\.(\d+)\.downsample\.conv\.(.*)', name)
        if found:
            name = f'stages.{int(found[1]) + 1}.downsample.{found[2]}'
        moved[name] = weight
    return moved


FAMILIES = {
    'mila': Family(
        signature=r'layers\.\d+\.blocks\.\d+\.attn\.lepe\.weight$',
        renames=(
            (r'^patch_embed\.', 'stem.'),
            (r'^layers\.', 'stages.'),
            (r'^norm(\d+)\.', r'out_norms.\1.'),
            (r'\.cpe([12])\.', r'.position\1.'),
            (r'\.(in_proj|out_proj)\.', r'.mixer.\1.'),
            (r'\.act_proj\.', '.mixer.gate_proj.'),
            (r'\.dwc\.', '.mixer.conv.'),
            (r'\.attn\.', '.mixer.attention.'),
            (r'\.qk\.', '.query_key.'),
            (r'\.lepe\.', '.local.'),
        ),
        finish=_mila,
    ),
}
