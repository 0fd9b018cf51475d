"""Released VMINet: its names, the parts of a stage and the position weights."""

import math
import re

from mmssm.weights.official.family import Family, StateDict


def _vminet(weights: StateDict) -> StateDict:
    """Name each stage's first part, count blocks from 0, put weights on their grid."""
    moved = {}
    for name, weight in weights.items():
        found = re.match(r'stages\.(\d+)\.(\d+)\.(.*)', name)
        if found:
            stage, part, rest = int(found[1]), int(found[2]), found[3]
            place = f'blocks.{part - 1}' if part else 'downsample'
            name = f'stages.{stage}.{place}.{rest}'
        if name.endswith('.attention.position'):
            side = math.isqrt(weight.numel())
            weight = weight.reshape(side, side)
        moved[name] = weight
    return moved


FAMILIES = {
    'vminet': Family(
        signature=r'stages\.\d+\.\d+\.sum\.weight$',
        renames=(
            (r'^stem\.0\.', 'stem.'),
            (r'\.dwconv\.', '.local.'),
            (r'\.f1\.conv\.', '.attention.query.'),
            (r'\.f2\.conv\.', '.attention.key.'),
            (r'\.sum\.weight$', '.attention.position'),
            (r'\.stack$', '.attention.mix'),
            (r'\.g\.', '.project.'),
            (r'\.bn\.', '.norm.'),
        ),
        finish=_vminet,
    ),
}
