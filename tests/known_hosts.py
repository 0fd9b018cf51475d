"""Small networks of every package that the 2-D SSM is put into."""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from mmssm.backbones import ConvNeXt


class Known(NamedTuple):
    """A host: its package, its network, its places (the authors' first).

    sizes: of two images, the second not square, of which the host makes odd maps.
    seen: name of the module whose output the layer filters at its first place in the
    first block; patch: pixels of a cell there.
    """

    package: str
    make: Callable[[], nn.Module]
    places: tuple[str, ...]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    seen: str
    patch: int


def timm(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from timm import create_model

        return create_model(name, num_classes=3, **options)

    return make


def registered(kind: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from mmssm.registry import MODELS

        importlib.import_module(f'{kind.partition(".")[0]}.models')
        return MODELS.build(dict(type=kind, **options))

    return make


SWIN = dict(embed_dims=12, depths=(2, 2, 1, 1), num_heads=(1, 2, 2, 2), window_size=4)
PRETRAIN_SWIN = dict(
    arch=dict(embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2)),
    img_size=64,
    window_size=2,
    pad_small_map=True,
    out_indices=(0, 1, 2, 3),
)
PRETRAIN_SWIN_V2 = dict(extra_norm_every_n_blocks=0, **PRETRAIN_SWIN['arch'])
PRETRAIN_VIT = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=64,
    out_type='featmap',
)
TIMM_SWIN = dict(
    img_size=64,
    embed_dim=8,
    depths=(2, 1),
    num_heads=(1, 2),
    window_size=4,
    dynamic_img_size=True,
)
TIMM_VIT = dict(img_size=64, embed_dim=16, depth=2, num_heads=2, dynamic_img_size=True)
MAXVIT = dict(
    img_size=96,
    embed_dim=(8, 16),
    depths=(1, 1),
    stem_width=8,
    transformer_dim_head=4,
)
ODD = ((64, 64), (60, 76))
TOKENS = ((64, 64), (48, 80))
MM_ODD = ((64, 64), (70, 98))
ATTENTION = ('attention', 'query_key', 'ffn')
KNOWN = {
    'mmssm convnext': Known(
        'mmssm',
        lambda: ConvNeXt(arch=dict(channels=8, depths=(1, 2)), out_indices=(0, 1)),
        ('conv',),
        ((64, 64), (35, 50)),
        'stem',
        4,
    ),
    'timm swin': Known(
        'timm',
        timm('swin_tiny_patch4_window7_224', **TIMM_SWIN),
        ('attention', 'ffn'),
        ODD,
        'layers.0.blocks.0.norm1',
        4,
    ),
    'timm swin v2': Known(
        'timm',
        timm('swinv2_tiny_window8_256', **TIMM_SWIN),
        ('attention', 'ffn'),
        ODD,
        'patch_embed',
        4,
    ),
    'timm maxvit': Known(
        'timm',
        timm('maxvit_tiny_tf_224', **MAXVIT),
        ('attention', 'ffn'),
        ((72, 72), (72, 120)),
        'stages.0.blocks.0.attn_block.norm1',
        4,
    ),
    'timm maxvit of convolutions': Known(
        'timm',
        timm('maxvit_rmlp_pico_rw_256', transformer_use_nchw_attn=True, **MAXVIT),
        ('attention', 'ffn'),
        ((72, 72), (72, 120)),
        'stages.0.blocks.0.attn_block.norm1',
        4,
    ),
    'timm vit': Known(
        'timm',
        timm('vit_tiny_patch16_224', global_pool='avg', class_token=False, **TIMM_VIT),
        ATTENTION,
        TOKENS,
        'blocks.0.norm1',
        16,
    ),
    'timm vit with registers': Known(
        'timm',
        timm('vit_small_patch14_reg4_dinov2', global_pool='avg', **TIMM_VIT),
        ATTENTION,
        ((70, 70), (42, 98)),
        'blocks.0.norm1',
        14,
    ),
    'timm deit with distillation': Known(
        'timm',
        timm('deit_tiny_distilled_patch16_224', **TIMM_VIT),
        # of its last perceptron only the class and the distillation token are used
        ('attention', 'query_key'),
        TOKENS,
        'blocks.0.norm1',
        16,
    ),
    'timm convnext': Known(
        'timm',
        timm('convnext_tiny', dims=(8, 8, 8, 16), depths=(1, 2, 1, 1)),
        ('conv',),
        ((64, 64), (60, 76)),
        'stem',
        4,
    ),
    'mmdet swin': Known(
        'mmdet',
        registered('mmdet.SwinTransformer', **SWIN),
        ATTENTION,
        MM_ODD,
        'stages.0.blocks.0.norm1',
        4,
    ),
    'mmdet pvt': Known(
        'mmdet',
        registered(
            'mmdet.PyramidVisionTransformer',
            pretrain_img_size=64,
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
        ),
        ('attention', 'ffn'),
        ((64, 64), (96, 64)),
        'layers.0.1.1.norm1',
        4,
    ),
    'mmdet pvt v2': Known(
        'mmdet',
        registered(
            'mmdet.PyramidVisionTransformerV2', embed_dims=8, num_layers=[1, 1, 1, 1]
        ),
        ('ffn', 'attention'),
        MM_ODD,
        'layers.0.1.0.ffn.layers.0',
        4,
    ),
    'mmseg swin': Known(
        'mmseg',
        registered('mmseg.SwinTransformer', **SWIN),
        ATTENTION,
        MM_ODD,
        'stages.0.blocks.0.norm1',
        4,
    ),
    'mmseg vit': Known(
        'mmseg',
        registered(
            'mmseg.VisionTransformer',
            img_size=64,
            embed_dims=16,
            num_layers=2,
            num_heads=2,
            out_indices=(0, 1),
        ),
        ATTENTION,
        TOKENS,
        'layers.0.ln1',
        16,
    ),
    'mmseg mit': Known(
        'mmseg',
        registered('mmseg.MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 1, 1]),
        ('ffn', 'attention'),
        MM_ODD,
        'layers.0.1.0.ffn.layers.0',
        4,
    ),
    'mmpretrain swin': Known(
        'mmpretrain',
        registered('mmpretrain.SwinTransformer', **PRETRAIN_SWIN),
        ATTENTION,
        MM_ODD,
        'stages.0.blocks.0.norm1',
        4,
    ),
    'mmpretrain swin v2': Known(
        'mmpretrain',
        registered(
            'mmpretrain.SwinTransformerV2',
            **{**PRETRAIN_SWIN, 'arch': PRETRAIN_SWIN_V2},
        ),
        ('attention', 'ffn'),
        MM_ODD,
        'patch_embed',
        4,
    ),
    'mmpretrain vit': Known(
        'mmpretrain',
        registered(
            'mmpretrain.VisionTransformer', with_cls_token=False, **PRETRAIN_VIT
        ),
        ATTENTION,
        TOKENS,
        'layers.0.ln1',
        16,
    ),
    'mmpretrain deit with distillation': Known(
        'mmpretrain',
        registered('mmpretrain.DistilledVisionTransformer', **PRETRAIN_VIT),
        ATTENTION,
        TOKENS,
        'layers.0.ln1',
        16,
    ),
    'mmpretrain convnext': Known(
        'mmpretrain',
        registered(
            'mmpretrain.ConvNeXt',
            arch=dict(depths=[1, 2], channels=[8, 16]),
            out_indices=(0, 1),
            gap_before_final_norm=False,
        ),
        ('conv',),
        ((64, 64), (60, 76)),
        'downsample_layers.0',
        4,
    ),
}


def _parameters(pairs: list[tuple]) -> list:
    def present(name: str) -> bool:
        return importlib.util.find_spec(KNOWN[name].package) is not None

    return [
        pytest.param(
            *values,
            id='-'.join(values).replace(' ', '_'),
            marks=pytest.mark.skipif(
                not present(values[0]), reason=f'{KNOWN[values[0]].package} is missing'
            ),
        )
        for values in pairs
    ]


each_host = pytest.mark.parametrize('name', _parameters([(n,) for n in KNOWN]))
each_place = pytest.mark.parametrize(
    ('name', 'place'), _parameters([(n, p) for n in KNOWN for p in KNOWN[n].places])
)


def plain(name: str) -> nn.Module:
    """The host, without the zeros and ones that its parameters may start from."""
    torch.manual_seed(0)
    model = KNOWN[name].make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return evaluated(model)


def evaluated(model: nn.Module) -> nn.Module:
    model.eval()  # of some hosts it returns nothing
    return model


def images(name: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, *s, generator=generator) for s in KNOWN[name].sizes]


def outputs_of(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(2)  # drop path
    y = model(x)
    return flat(y)


def flat(y: object) -> list[torch.Tensor]:
    if isinstance(y, torch.Tensor):
        return [y]
    return [tensor for part in y for tensor in flat(part)]


def loss_of(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Sees the outputs in spite of norms at the end of the host."""
    torch.manual_seed(3)
    return sum((y * torch.randn_like(y)).mean() for y in outputs)
