"""The 2-D SSM (arXiv 2306.06635) inside transformers and ConvNeXts of any package."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmssm.backbones.hierarchical import HierarchicalBackbone
from mmssm.hosts.places import PLACES, Mix, find_places, published_place
from mmssm.layers import SSM2D
from mmssm.layers.pyramid import STRIDES, Pyramid

STARTS = ('identity', 'published')
# Builds a network from its config; None where no registry is used.
BUILD: Callable[[Mapping[str, object]], nn.Module] | None = None
IMAGE = (224, 224)  # patches of 4, 8, 14, 16 and 32 cut it evenly


def SSM2DHost(
    host: Mapping[str, object],
    start: str = 'identity',
    place: str | None = None,
    pyramid: bool | None = None,
    num_states: int = 16,
    num_ssms: int = 1,
    directions: int = 4,
    complex_states: bool = False,
    skip: bool = False,
    norm: bool = False,
    kernel_size: int | tuple[int, int] | None = None,
    tolerance: float = 0.0,
    decay_A: bool = True,
    keep_kernels: bool = True,
) -> nn.Module:
    """Build a backbone and put a 2-D SSM into each of its blocks.

    The result is the host itself, of its own class, with its own options and parameter
    names: its pretrained weights, freezing and checkpointing work as without the layer,
    whose parameters are called `mix` in the module that it changes.

    host: config of a backbone, such as dict(type='mmdet.SwinTransformer', ...).
    start: 'identity', the layer grows beside the host's own map from a gain of zero, so
    that the host computes what it did; 'published', the layer takes the place of the
    map, or of the convolution, as in the released code.
    place: a key of `PLACES`, by default where the authors put the layer: 'attention' in
    transformers, 'ffn' where the perceptron has a depthwise convolution, 'conv' in
    ConvNeXt; 'query_key' is the authors' variant that leaves the values alone.
    pyramid: turn maps of one stride into a pyramid of strides 4, 8, 16 and 32; by
    default done for hosts whose maps have one stride.
    num_states, num_ssms, directions, complex_states, skip, norm, kernel_size,
    tolerance, decay_A, keep_kernels: see `SSM2D`.

    The backbone has `channels` and `strides`, one entry per output.
    Raises ValueError for another start, for a place that the host lacks and for a host
    without places, naming those that exist.
    """
    if start not in STARTS:
        raise ValueError(f'start is {start!r}; expected one of {STARTS}')
    backbone = BUILD(host)
    places = _choose(backbone, place)
    outputs = _output_shapes(backbone, _pair(host.get('pretrain_img_size', IMAGE)))
    names = set(backbone.state_dict())
    widths = set()

    def make(channels: int) -> Mix:
        widths.add(channels)
        layer = SSM2D(
            channels,
            num_states=num_states,
            num_ssms=num_ssms,
            directions=directions,
            complex_states=complex_states,
            skip=skip,
            norm=norm,
            kernel_size=kernel_size,
            tolerance=tolerance,
            decay_A=decay_A,
            keep_kernels=keep_kernels,
        )
        return Mix(layer, channels, grows=start == 'identity')

    for block, name in places:
        PLACES[name].insert(backbone, block, make)
    backbone.channels, backbone.strides = zip(*outputs, strict=True)
    one_stride = len(widths) == len(set(backbone.strides)) == 1
    if one_stride if pyramid is None else pyramid:
        _add_pyramid(backbone)
    _allow_changed_keys(backbone, names)
    return backbone


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _choose(backbone: nn.Module, place: str | None) -> list[tuple[nn.Module, str]]:
    """The blocks that get a layer, each with the place."""
    found = find_places(backbone)
    name = type(backbone).__name__
    if not found:
        listed = '; '.join(f'{name!r}, {place.about}' for name, place in PLACES.items())
        raise ValueError(
            f'{name} has no block with a place for the 2-D SSM. Places are: {listed}. '
            'Hosts that have some: SwinTransformer (mmdet, mmseg), VisionTransformer '
            'and MixVisionTransformer (mmseg), PyramidVisionTransformer (mmdet), '
            'ConvNeXt (mmssm, mmpretrain)'
        )
    if place is None:
        return [(block, published_place(block, names)) for block, names in found]
    chosen = [(block, place) for block, names in found if place in names]
    if not chosen:
        exist = sorted({place for _, names in found for place in names})
        raise ValueError(
            f'place is {place!r}; the blocks of {name} have {", ".join(exist)}'
        )
    return chosen


def _output_shapes(backbone: nn.Module, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(channels, stride) of each output, from a forward pass without any numbers."""
    convs = (m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    image = torch.empty(1, next(convs).in_channels, *size, device='meta')
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    tensors = {name: t.detach().to('meta') for name, t in tensors.items()}
    with torch.no_grad():
        outputs = functional_call(backbone, tensors, (image,))
    if not all(isinstance(y, Tensor) and y.dim() == 4 for y in outputs):
        raise ValueError(
            f'{type(backbone).__name__} gives something else than maps (B, C, H, W); '
            'expected maps only, see the options of the host (output_cls_token=False '
            'of mmseg, gap_before_final_norm=False of mmpretrain)'
        )
    return [(y.shape[1], round(size[0] / y.shape[2])) for y in outputs]


def _add_pyramid(backbone: nn.Module) -> None:
    channels, strides = set(backbone.channels), set(backbone.strides)
    if len(channels) != 1 or len(strides) != 1:
        raise ValueError(
            f'{type(backbone).__name__} has outputs of {backbone.channels} channels at '
            f'strides {backbone.strides}; pyramid=True needs them all the same'
        )
    width, count = channels.pop(), len(backbone.strides)
    backbone.pyramid = Pyramid(width, strides.pop(), count)
    backbone.register_forward_hook(_to_pyramid)
    backbone.channels, backbone.strides = (width,) * len(STRIDES), STRIDES


def _to_pyramid(backbone: nn.Module, args: tuple, maps: list[Tensor]) -> tuple:
    return backbone.pyramid(maps, args[0].shape[2:])


def _allow_changed_keys(backbone: nn.Module, before: set[str]) -> None:
    """Let our own backbones load the weights of a host without the layer."""
    cfg = backbone.init_cfg
    if isinstance(backbone, HierarchicalBackbone) and isinstance(cfg, Mapping):
        replaced = sorted(before - set(backbone.state_dict()))
        for option, names in (
            ('allow_missing', ['*.mix.*', 'pyramid.*']),
            ('allow_unexpected', replaced),
        ):
            cfg[option] = [*cfg.get(option, ()), *names]
