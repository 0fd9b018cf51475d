"""Released 2-D SSMs: the layer alone, in Swin, in ViT, and Mega.

Each function takes and returns a state dict under our names: what renaming alone does
not make ours.  ValueError for a layer of which arrays are missing.
"""

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from mmssm.weights.official.family import Family, StateDict


def layers(weights: StateDict) -> StateDict:
    """The separate arrays of every layer -> its parameters A, B and C.

    A_k: (S, N) -> (4, S, N).  B_k -> (2, S, N).  C_k: (directions * channels, N) -> (2,
    directions * channels, N).  Angle and radius of complex A become a last axis.
    """
    done = dict(weights)
    for prefix in [name.removesuffix('C_1') for name in weights if _is_c(name)]:

        def stack(names: Iterable[str], prefix: str = prefix) -> Tensor:
            names = [prefix + name for name in names]
            lacking = [name for name in names if name not in done]
            if lacking:
                raise ValueError(f'a 2-D SSM of the weights lacks {lacking}')
            return torch.stack([done.pop(name) for name in names])

        if f'{prefix}A.A_1' in done:
            A = stack(f'A.A_{k}' for k in range(1, 5))
        else:
            halves = ('A_angle', 'A_radius')
            parts = [stack(f'{h}.A_{k}' for k in range(1, 5)) for h in halves]
            A = torch.stack(parts, -1)
        done[f'{prefix}A'] = A
        done[f'{prefix}B'] = stack(['B_1', 'B_2'])
        done[f'{prefix}C'] = stack(['C_1', 'C_2'])
    return {re.sub(r'(^|\.)normalization\.', r'\1norm.', k): w for k, w in done.items()}


def swin(weights: StateDict) -> StateDict:
    """Merged patches in the order of torch's unfold; no attention masks."""
    done = {}
    for name, weight in layers(weights).items():
        if '.downsample.' in name:  # (..., 4 C), the four in order of columns
            columns = weight.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
            weight = columns.transpose(-1, -2).flatten(-2)
        if not name.endswith('.attn_mask'):
            done[name] = weight
    return done


def vit(weights: StateDict) -> StateDict:
    """Patches as a convolution, one projection for queries, keys and values."""
    done = {}
    for name, weight in layers(weights).items():
        if name == 'patch_embed.projection.weight':  # (D, p * p * 3)
            side = math.isqrt(weight.shape[1] // 3)
            weight = weight.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2)
        if name.endswith('.to_qk.weight'):
            values = weights[name.replace('to_qk', 'to_v')]
            name, weight = name.replace('to_qk', 'to_qkv'), torch.cat([weight, values])
        if name.endswith('.to_qkv.weight'):
            name = name.replace('to_qkv.weight', 'in_proj_')
            done[f'{name}bias'] = weight.new_zeros(len(weight))
            name = f'{name}weight'
        if not name.startswith('mlp_head.') and not name.endswith('.to_v.weight'):
            done[name] = weight
    return done


def mega(weights: StateDict) -> StateDict:
    """Four groups of blocks, as even as can be; positions on their grid."""
    found = [re.match(r'blocks\.(\d+)\.(.*)', name) for name in weights]
    depth = 1 + max(int(match[1]) for match in found if match)
    starts = [depth * group // 4 for group in range(4)]
    done = {}
    for name, weight in layers(weights).items():
        match = re.match(r'blocks\.(\d+)\.(.*)', name)
        if match:
            group = sum(int(match[1]) >= start for start in starts) - 1
            block = int(match[1]) - starts[group]
            name = f'stages.{group}.blocks.{block}.{match[2]}'
        if name == 'stem.position':  # (1, H * W, C)
            side = math.isqrt(weight.shape[1])
            weight = weight[0].T.unflatten(1, (side, side))
        if re.search(r'\.mixer\.(alpha|beta|gamma|delta)$', name):  # (2 C, N, 1)
            weight = weight.flatten(1).unflatten(0, (2, -1))
        if not name.startswith('out_proj.'):
            done[name] = weight
    return done


def _is_c(name: str) -> bool:
    return re.search(r'(^|\.)C_1$', name) is not None


FAMILIES = {
    # hosts have the names of mmdet's Swin and mmseg's ViT
    'ssm2d': Family(signature=r'^C_1$', renames=(), finish=layers),
    'ssm2d_swin': Family(
        signature=r'layers\.\d+\.blocks\.\d+\.(mlp\.)?move\.C_1$',
        renames=(
            (r'^layers\.', 'stages.'),
            (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
            (r'\.attn\.', '.attn.w_msa.'),
            (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
            (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
            (r'\.mlp\.move\.', '.ffn.layers.0.0.mix.ssm2d.'),
            (r'\.move\.', '.attn.mix.ssm2d.'),
        ),
        finish=swin,
    ),
    'ssm2d_vit': Family(
        signature=r'transformer\.layers\.\d+\.\d+\.fn\.move\.C_1$',
        renames=(
            (r'^pos_embedding$', 'pos_embed'),
            (r'^to_patch_embedding\.1\.', 'patch_embed.projection.'),
            (r'^transformer\.', ''),
            (r'\.0\.norm\.', '.ln1.'),
            (r'\.1\.norm\.', '.ln2.'),
            (r'\.0\.fn\.move\.', '.attn.mix.ssm2d.'),
            (r'\.0\.fn\.to_out\.0\.', '.attn.attn.out_proj.'),
            (r'\.0\.fn\.', '.attn.attn.'),
            (r'\.1\.fn\.(net\.0|fc1)\.', '.ffn.layers.0.0.'),
            (r'\.1\.fn\.(net\.3|fc2)\.', '.ffn.layers.1.'),
            (r'\.1\.fn\.move\.', '.ffn.layers.0.0.mix.ssm2d.'),
        ),
        finish=vit,
    ),
    'ssm2d_mega': Family(
        signature=r'blocks\.\d+\.mega_layer\.mx_proj\.weight$',
        renames=(
            (r'^pos_embed$', 'stem.position'),
            (r'^patch_embed\.proj\.', 'stem.conv.'),
            (r'^final_norm\.norm\.', 'out_norms.3.norm.'),
            (r'\.nffn\.norm\.norm\.', '.norm.'),
            (r'\.nffn\.', '.'),
            (r'\.mega_layer\.', '.attention.'),
            (r'\.attention\.norm\.norm\.', '.attention.norm.'),
            (r'\.attention\.gamma$', '.attention.scale'),
            (r'\.attention\.beta$', '.attention.shift'),
            (r'\.rel_pos_bias\.rel_pos_bias$', '.position.bias'),
            (r'\.move\.', '.mixer.'),
            (r'\.v_proj\.', '.value.'),
            (r'\.mx_proj\.', '.gates.'),
            (r'\.h_proj\.', '.hidden.'),
        ),
        finish=mega,
    ),
}
