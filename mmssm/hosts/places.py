"""Where a layer goes into the blocks of other packages' backbones.

The layer becomes a child called `mix` of the module that it changes, and forward hooks
lead the map through it: the host keeps its code, its parameters and their names.
Tokens are (B, leading + H * W, C); leading ones, such as a class token, go round.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.hosts.token_grid import find_grid, has_grid, is_at, passes_grid


class Mix(nn.Module):
    """A layer in the place of the host's own map, or growing beside it.

    ssm2d: (B, C, H, W) -> (B, C, H, W).  gain: (C,), zero at first, or None.
    Without a gain the result is ssm2d(x), with one it is host + gain * ssm2d(x).
    """

    def __init__(self, layer: nn.Module, channels: int, grows: bool) -> None:
        super().__init__()
        self.ssm2d = layer
        self.gain = nn.Parameter(torch.zeros(channels)) if grows else None

    def forward(self, x: Tensor, host: Tensor | None = None) -> Tensor:
        y = self.ssm2d(x)
        if self.gain is None:
            return y
        return torch.addcmul(host, self.gain[:, None, None], y).to(host.dtype)


Make = Callable[[int], Mix]


class Place(NamedTuple):
    """A place for the layer in a block.

    about: what the layer filters there.
    fits: whether a block of the host has the place; called with host and block.
    insert: put a layer there; it is made from the number of channels.
    """

    about: str
    fits: Callable[[nn.Module, nn.Module], bool]
    insert: Callable[[nn.Module, nn.Module, Make], None]


def find_places(host: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """The blocks of a host that have places for a layer, each with their names."""
    found = []
    for block in host.modules():
        names = [name for name, place in PLACES.items() if place.fits(host, block)]
        if names:
            found.append((block, names))
    return found


def published_place(block: nn.Module, names: list[str]) -> str:
    """The one of a block's places where the authors of the 2-D SSM put it."""
    if 'conv' in names:
        return 'conv'
    return 'ffn' if _mixing_conv(block) else 'attention'


def _mix_tokens(mix: Mix, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, leading + H W, C) -> the same shape; the leading tokens stay."""
    height, width = size
    leading = tokens.shape[1] - height * width
    maps = tokens[:, leading:].transpose(1, 2).unflatten(2, (height, width))
    mixed = mix(maps, maps).flatten(2).transpose(1, 2)
    if leading:
        mixed = torch.cat([tokens[:, :leading], mixed], dim=1)
    return mixed.contiguous()


# attention: the normed map, before windows are cut and queries, keys, values are made


def _insert_before_attention(host: nn.Module, block: nn.Module, make: Make) -> None:
    find_grid(host, block)
    block.attn.mix = make(_channels(block.attn))
    block.attn.register_forward_pre_hook(_mix_input)


def _mix_input(attention: nn.Module, args: tuple) -> tuple:
    tokens, *rest = args
    return (_mix_tokens(attention.mix, tokens, attention.grid.size), *rest)


def _channels(attention: nn.Module) -> int:
    return next(m for m in attention.modules() if hasattr(m, 'embed_dims')).embed_dims


# query_key: the same map, but values come from the map as it is


def _has_queries(host: nn.Module, block: nn.Module) -> bool:
    windows = is_at(block, 'attn.w_msa.qkv', nn.Linear)
    windows = windows and hasattr(block.attn, 'window_partition')
    return windows or (has_grid(host, block) and not passes_grid(block))


def _insert_for_queries(host: nn.Module, block: nn.Module, make: Make) -> None:
    find_grid(host, block)
    block.attn.mix = make(_channels(block.attn))
    if passes_grid(block):
        block.attn.register_forward_pre_hook(_mix_windows)
        block.attn.w_msa.qkv.register_forward_hook(_change_queries_and_keys)
    else:
        block.attn.register_forward_pre_hook(_keep_values, with_kwargs=True)


def _keep_values(attention: nn.Module, args: tuple, kwargs: dict) -> tuple:
    tokens, *rest = args
    mixed = _mix_tokens(attention.mix, tokens, attention.grid.size)
    return (mixed, *rest), {**kwargs, 'value': tokens}


def _mix_windows(attention: nn.Module, args: tuple) -> None:
    """Cut what the layer changes into windows, as the attention does with its input."""
    tokens, (height, width) = args
    change = _mix_tokens(attention.mix, tokens, (height, width)) - tokens
    window, shift = attention.window_size, attention.shift_size
    change = F.pad(
        change.unflatten(1, (height, width)),
        (0, 0, 0, -width % window, 0, -height % window),
    ).roll((-shift, -shift), (1, 2))
    windows = attention.window_partition(change)
    attention.w_msa.qkv.change = windows.flatten(1, 2)  # (windows, window ** 2, C)


def _change_queries_and_keys(qkv: nn.Linear, args: tuple, result: Tensor) -> Tensor:
    change, qkv.change = qkv.change, None
    channels = qkv.in_features
    change = F.linear(change, qkv.weight[: 2 * channels])
    return result + F.pad(change, (0, channels))


# ffn: the hidden map of the perceptron, before its activation


def _has_perceptron(host: nn.Module, block: nn.Module) -> bool:
    if not is_at(block, 'ffn.layers', nn.Sequential):
        return False
    if _mixing_conv(block):
        return True
    return has_grid(host, block) and is_at(block, 'ffn.layers.0.0', nn.Linear)


def _insert_into_perceptron(host: nn.Module, block: nn.Module, make: Make) -> None:
    name = _mixing_conv(block)
    if name:
        _replace_conv(block.ffn.layers, name, make)
        return
    linear = block.ffn.layers[0][0]
    linear.grid = find_grid(host, block)
    linear.mix = make(linear.out_features)
    linear.register_forward_hook(_mix_output)


def _mix_output(linear: nn.Linear, args: tuple, result: Tensor) -> Tensor:
    return _mix_tokens(linear.mix, result, linear.grid.size)


def _mixing_conv(block: nn.Module) -> str | None:
    """Name in `ffn.layers` of the depthwise convolution of a MixFFN."""
    if not is_at(block, 'ffn.layers', nn.Sequential):
        return None
    for name, module in block.ffn.layers.named_children():
        if _is_depthwise(module):
            return name
    return None


# conv: in place of the depthwise convolution at the head of a block


def _has_conv(host: nn.Module, block: nn.Module) -> bool:
    return _is_depthwise(getattr(block, 'depthwise_conv', None))


def _insert_for_conv(host: nn.Module, block: nn.Module, make: Make) -> None:
    _replace_conv(block, 'depthwise_conv', make)


def _replace_conv(parent: nn.Module, name: str, make: Make) -> None:
    """A growing layer stands beside the convolution, another one replaces it."""
    conv = getattr(parent, name)
    mix = make(conv.out_channels)
    if mix.gain is None:
        setattr(parent, name, nn.Sequential(OrderedDict(mix=mix)))
    else:
        conv.mix = mix
        conv.register_forward_hook(_mix_beside)


def _mix_beside(conv: nn.Conv2d, args: tuple, result: Tensor) -> Tensor:
    return conv.mix(args[0], result)


def _is_depthwise(module: object) -> bool:
    conv = isinstance(module, nn.Conv2d)
    return conv and module.groups == module.in_channels == module.out_channels > 1


PLACES = {
    'attention': Place(
        'the normed map before windows, queries, keys and values',
        has_grid,
        _insert_before_attention,
    ),
    'query_key': Place(
        'the same, for queries and keys only', _has_queries, _insert_for_queries
    ),
    'ffn': Place(
        'the hidden map of the perceptron, in place of its depthwise convolution '
        'if it has one',
        _has_perceptron,
        _insert_into_perceptron,
    ),
    'conv': Place(
        'in place of the depthwise convolution of a block', _has_conv, _insert_for_conv
    ),
}
