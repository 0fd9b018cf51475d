"""Small hosts of the 2-D SSM, plain and with it."""

import pytest
import torch

from mmssm.hosts.mix import Mix
from mmssm.registry import MODELS

SWIN = dict(
    embed_dims=12,
    depths=(2, 2, 1, 1),
    num_heads=(1, 2, 2, 2),
    window_size=4,
    drop_path_rate=0.1,
)
VIT = dict(
    type='mmseg.VisionTransformer',
    img_size=64,
    embed_dims=16,
    num_layers=4,
    num_heads=2,
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.1,
)
HOSTS = {
    'mmdet swin': dict(type='mmdet.SwinTransformer', **SWIN),
    'mmseg swin': dict(type='mmseg.SwinTransformer', **SWIN),
    'vit': VIT,
    'vit without class token': dict(VIT, with_cls_token=False),
    'mit': dict(
        type='mmseg.MixVisionTransformer',
        embed_dims=8,
        num_layers=[1, 2, 1, 1],
        drop_path_rate=0.1,
    ),
    'pvt': dict(
        type='mmdet.PyramidVisionTransformerV2', embed_dims=8, num_layers=[1, 1, 1, 1]
    ),
    'convnext': dict(
        type='mmssm.ConvNeXt',
        arch=dict(channels=8, depths=(1, 2, 1, 1)),
        layer_scale=1.0,
        drop_path_rate=0.1,
    ),
}
PLACES = {
    'mmdet swin': ('attention', 'query_key', 'ffn'),
    'mmseg swin': ('attention', 'query_key', 'ffn'),
    'vit': ('attention', 'query_key', 'ffn'),
    'vit without class token': ('attention', 'query_key', 'ffn'),
    'mit': ('ffn', 'attention'),
    'pvt': ('ffn', 'attention'),
    'convnext': ('conv',),
}
CASES = [(name, place) for name, places in PLACES.items() for place in places]
each_host = pytest.mark.parametrize('name', HOSTS)
each_case = pytest.mark.parametrize('name, place', CASES)


def bare(name, **options):
    torch.manual_seed(0)
    return MODELS.build({**HOSTS[name], **options})


def build(name, *, host=None, **options):
    torch.manual_seed(0)
    cfg = {**HOSTS[name], **(host or {})}
    options = {'num_states': 2, 'pyramid': False, **options}
    return MODELS.build(dict(type='mmssm.SSM2DHost', host=cfg, **options))


def evaluated(model):
    model.eval()  # of some hosts it returns nothing
    return model


def outputs_of(model, x):
    torch.manual_seed(1)  # drop path
    return model(x)


def loss_of(outputs):
    """Sees the outputs in spite of norms at the end of the host."""
    torch.manual_seed(2)
    return sum((y * torch.randn_like(y)).mean() for y in outputs)


def mixes(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, Mix)}
