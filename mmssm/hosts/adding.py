"""The 2-D SSM (arXiv 2306.06635) put into a network that is already built."""

import difflib
import inspect
from collections.abc import Mapping

import torch
from torch import nn

from mmssm.hosts.mix import Mix
from mmssm.hosts.named import insert_behind
from mmssm.hosts.places import PLACES, Block, Make, find_blocks, published_place
from mmssm.layers import SSM2D, ExponentialMovingAverage

STARTS = ('identity', 'published')
MIXERS = ('ssm2d', 'ema')
OPTIONS = tuple(inspect.signature(SSM2D).parameters)[1:]
HOSTS = (
    'Swin (mmdet, mmseg, mmpretrain, timm), Swin V2 (mmpretrain, timm), MaxViT (timm), '
    'ViT and DeiT (mmseg, mmpretrain, timm), PVT (mmdet), MixVisionTransformer (mmseg) '
    'and ConvNeXt (mmssm, mmpretrain, timm)'
)


def add_ssm2d(
    model: nn.Module,
    place: str | None = None,
    start: str = 'identity',
    ssm2d: Mapping[str, object] | None = None,
    modules: Mapping[str, str] | None = None,
    stride: int | None = None,
    mixer: str = 'ssm2d',
) -> nn.Module:
    """Put a 2-D SSM into each block of a network, in place; returns the network.

    It keeps its class, its options and its names: weights of the plain network load
    as before.  What is added is called `mix` in the module that it changes.

    model: a backbone of mmdet, mmseg, mmpretrain or timm, or a network around one.
    place: a key of `PLACES`, by default where the authors put the layer: 'attention' in
    transformers, 'ffn' where the perceptron has a depthwise convolution, 'conv' in
    ConvNeXt; 'query_key' is the authors' variant that leaves the values alone.
    start: 'identity', the layer grows beside the host's own map from a gain of zero, so
    that the host computes what it did; 'published', the layer takes the place of the
    map, or of the convolution, as in the released code.
    ssm2d: arguments of `SSM2D` but for the channels, as dict(num_states=16).
    modules: for networks that are not known, instead of place: what the modules of
    these names give is filtered, as {'stages.*.norm1': 'BHWC'}; a layout is 'BCHW',
    'BHWC' or 'tokens', (B, leading + H W, C), which need stride, the pixels of the
    image that a token stands for.

    mixer: 'ema' puts `ExponentialMovingAverage` there instead, which the paper compares
    with; of the arguments of the layer it takes num_states.

    Raises ValueError for another start, mixer or argument of the layer, for a network
    without a block that is known or without that place, naming those that exist, for
    names without a module, and for a network that has the layer already.
    """
    if start not in STARTS:
        raise ValueError(f'start is {start!r}; expected one of {STARTS}')
    if mixer not in MIXERS:
        raise ValueError(f'mixer is {mixer!r}; expected one of {MIXERS}')
    if any(isinstance(module, Mix) for module in model.modules()):
        raise ValueError(f'this {type(model).__name__} has the 2-D SSM already')
    make = _maker(model, start, mixer, dict(ssm2d or {}))
    if modules is not None:
        if place is not None:
            raise ValueError(f'place is {place!r} beside modules; expected one of both')
        insert_behind(model, modules, stride, make)
    else:
        for block, name in choose_blocks(model, place):
            PLACES[name].insert(block.owner, block.module, make)
    return model


def _maker(model: nn.Module, start: str, mixer: str, options: dict) -> Make:
    """Makes layers where the parameters of the model are."""
    for name in options:
        if name not in OPTIONS:
            close = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = f'; did you mean {close[0]!r}?' if close else '.'
            raise ValueError(
                f'the 2-D SSM has no option {name!r}{hint} It takes '
                f'{", ".join(OPTIONS)}'
            )
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = None if like is None else like.device
    double = like is not None and like.dtype == torch.float64

    def make(channels: int) -> Mix:
        if mixer == 'ema':
            layer = ExponentialMovingAverage(channels, options.get('num_states', 16))
        else:
            layer = SSM2D(channels, **options)
        mix = Mix(layer, channels, grows=start == 'identity')
        mix = mix.to(device, torch.float64 if double else None)
        return mix.train(model.training)

    return make


def choose_blocks(model: nn.Module, place: str | None) -> list[tuple[Block, str]]:
    """The blocks that get a layer, each with the place."""
    found = find_blocks(model)
    name = type(model).__name__
    if not found:
        listed = '; '.join(f'{name!r}, {place.about}' for name, place in PLACES.items())
        raise ValueError(
            f'{name} has no block with a place for the 2-D SSM. Places are: {listed}. '
            f'Hosts that have some: {HOSTS}. In others, name the modules that it '
            "follows: add_ssm2d(model, modules={'stages.*.norm1': 'BHWC'})"
        )
    if place is None:
        chosen = [(block, published_place(block)) for block in found]
        if {name for _, name in chosen} == {'attention', 'conv'}:
            return [(block, name) for block, name in chosen if name == 'attention']
        return chosen
    chosen = [(block, place) for block in found if place in block.places]
    if not chosen:
        exist = sorted({place for block in found for place in block.places})
        raise ValueError(
            f'place is {place!r}; the blocks of {name} have {", ".join(exist)}'
        )
    return chosen
