"""The 2-D SSM (arXiv 2306.06635) inside transformers and ConvNeXts of any package."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmssm.backbones.arguments import SSM2D_HOST
from mmssm.backbones.hierarchical import HierarchicalBackbone
from mmssm.hosts.adding import add_ssm2d, choose_blocks
from mmssm.hosts.mix import Mix
from mmssm.layers.arguments import checked, shown
from mmssm.layers.pyramid import STRIDES, Pyramid

# Builds a network from its config; None where no registry is used.
BUILD: Callable[[Mapping[str, object]], nn.Module] | None = None
# Patches of 4, 7, 8, 14, 16 and 32 cut them evenly; the second has a window of 8 at
# stride 32, and is tried where the first is refused.
IMAGES = (224, 448)


@checked(SSM2D_HOST)
def SSM2DHost(
    host: Mapping[str, object] | nn.Module,
    start: str = 'identity',
    place: str | None = None,
    pyramid: bool | None = None,
    mixer: str = 'ssm2d',
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

    host: config of a backbone, such as dict(type='mmdet.SwinTransformer', ...), or one
    that is built.
    start, place: see `add_ssm2d`, which does the work.
    pyramid: turn maps of one stride into a pyramid of strides 4, 8, 16 and 32; by
    default done for hosts whose maps have one stride.  With False the outputs may be
    vectors (B, C), such as the class token that a classifier reads.
    mixer: 'ema' for the moving average that the paper compares with, see `add_ssm2d`.
    num_states, num_ssms, directions, complex_states, skip, norm, kernel_size,
    tolerance, decay_A, keep_kernels: see `SSM2D`.

    The backbone has `channels` and `strides`, one entry per output that is a map.
    Raises ValueError for arguments that do not fit `arguments.SSM2D_HOST`, for a config
    where nothing builds it or that builds nothing, for outputs that are no maps
    or give no pyramid, and as `add_ssm2d` does.
    """
    backbone = host if isinstance(host, nn.Module) else _build(host)
    choose_blocks(backbone, place)
    outputs = _output_shapes(backbone, _image_sizes(host), pyramid is False)
    names = set(backbone.state_dict())
    options = dict(
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
    add_ssm2d(backbone, place, start, options, mixer=mixer)
    if not outputs:
        return backbone
    backbone.channels, backbone.strides = zip(*outputs, strict=True)
    widths = {m.channels for m in backbone.modules() if isinstance(m, Mix)}
    one_stride = len(widths) == len(set(backbone.strides)) == 1
    if one_stride if pyramid is None else pyramid:
        _add_pyramid(backbone)
    _allow_changed_keys(backbone, names)
    return backbone


def _build(host: Mapping[str, object]) -> nn.Module:
    if BUILD is None:
        raise ValueError(
            'host is a config, which nothing here builds; import mmssm.registry, or '
            'give the network itself'
        )
    try:
        return BUILD(host)
    except Exception as error:  # whatever the constructor of another package says
        raise ValueError(
            f'host is {shown(host)}, which cannot be built: {error}'
        ) from error


def _image_sizes(host: Mapping[str, object] | nn.Module) -> list[tuple[int, int]]:
    """Of images that the host may take, the likeliest first."""
    options = host if isinstance(host, Mapping) else vars(host)
    first, last = (options.get(key) for key in ('pretrain_img_size', 'img_size'))
    sizes = [size for size in (first, *IMAGES, last) if size is not None]
    return [tuple(s) if isinstance(s, Sequence) else (s, s) for s in sizes]


def _output_shapes(
    backbone: nn.Module, sizes: list[tuple[int, int]], vectors: bool
) -> list[tuple[int, int]]:
    """(channels, stride) of each output, from a forward pass without any numbers.

    vectors: outputs may be (B, C), of which nothing is said.
    """
    outputs, size = _first_outputs(backbone, sizes)
    dims = {y.dim() if isinstance(y, Tensor) else None for y in outputs}
    if vectors and dims == {2}:
        return []
    if dims != {4}:
        raise ValueError(
            f'{type(backbone).__name__} gives something else than maps (B, C, H, W); '
            'expected maps only, see the options of the host (output_cls_token=False '
            'of mmseg, gap_before_final_norm=False of mmpretrain)'
        )
    return [(y.shape[1], round(size[0] / y.shape[2])) for y in outputs]


def _first_outputs(
    backbone: nn.Module, sizes: list[tuple[int, int]]
) -> tuple[Sequence[Tensor], tuple[int, int]]:
    """Outputs for an image of the first size that the backbone takes, and the size."""
    conv = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    tensors = {name: t.detach().to('meta') for name, t in tensors.items()}
    refusals = []
    for size in sizes:
        image = torch.empty(1, conv.in_channels, *size, device='meta')
        try:
            with torch.no_grad():
                return functional_call(backbone, tensors, (image,)), size
        except (AssertionError, RuntimeError, ValueError) as error:
            refusals.append(f'{size[0]} x {size[1]}: {error}')
    raise ValueError(
        f'{type(backbone).__name__} takes no image to see its outputs on: '
        + '; '.join(refusals)
    )


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
    cfg = getattr(backbone, 'init_cfg', None)
    if isinstance(backbone, HierarchicalBackbone) and isinstance(cfg, Mapping):
        replaced = sorted(before - set(backbone.state_dict()))
        for option, names in (
            ('allow_missing', ['*.mix.*', 'pyramid.*']),
            ('allow_unexpected', replaced),
        ):
            cfg[option] = [*cfg.get(option, ()), *names]
