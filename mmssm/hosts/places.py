"""Where a layer goes into the blocks of other packages' backbones.

The layer becomes a child called `mix` of the module that it changes, and hooks lead the
map through it: the host keeps its code, its parameters and their names.  Blocks are
recognised by what they consist of; no other package is imported.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.hosts.extension import extend
from mmssm.hosts.mix import Mix, mix_bchw, mix_bhwc, mix_tokens
from mmssm.hosts.token_grid import Note, find_grid, has_grid, is_at, passes_grid

Owner = nn.Module | None
Make = Callable[[int], Mix]


class Place(NamedTuple):
    """A place for the layer in a block.

    about: what the layer filters there.
    fits: whether a block has the place; called with its owner, the module with the
    patch embedding around it or None, and the block.
    insert: put a layer there; it is made from the number of channels.
    """

    about: str
    fits: Callable[[Owner, nn.Module], bool]
    insert: Callable[[Owner, nn.Module, Make], None]


class Block(NamedTuple):
    """A block of a host, its owner, and the names of its places."""

    owner: Owner
    module: nn.Module
    places: list[str]


def find_blocks(host: nn.Module) -> list[Block]:
    """The blocks of a host that have places for a layer, in order."""
    found, seen = [], set()
    for owner, module in _walk(host, None):
        places = [name for name, place in PLACES.items() if place.fits(owner, module)]
        if places and id(module) not in seen:
            found.append(Block(owner, module, places))
            seen.add(id(module))
    return found


def _walk(module: nn.Module, owner: Owner) -> Iterator[tuple[Owner, nn.Module]]:
    if is_at(module, 'patch_embed', nn.Module):
        owner = module
    yield owner, module
    for child in module.children():
        yield from _walk(child, owner)


def published_place(block: Block) -> str:
    """The one of a block's places where the authors of the 2-D SSM put it."""
    if 'conv' in block.places:
        return 'conv'
    return 'ffn' if _mixing_conv(block.module) else 'attention'


def _channels(attention: nn.Module) -> int:
    """Of the map that an attention takes."""
    for module in attention.modules():
        if hasattr(module, 'embed_dims'):
            return module.embed_dims
    qkv = attention.qkv
    return qkv.in_channels if isinstance(qkv, nn.Conv2d) else qkv.in_features


# attention: the map before windows are cut and queries, keys and values are made


def _has_attention(owner: Owner, block: nn.Module) -> bool:
    return _cuts_windows(block) or has_grid(owner, block)


def _insert_before_attention(owner: Owner, block: nn.Module, make: Make) -> None:
    if _cuts_windows(block):
        _extend_cutting(block)
        block.attn.mix = make(_channels(block.attn))
        return
    find_grid(owner, block)
    block.attn.mix = make(_channels(block.attn))
    block.attn.register_forward_pre_hook(_mix_input)


def _mix_input(attention: nn.Module, args: tuple) -> tuple:
    tokens, *rest = args
    return (mix_tokens(attention.mix, tokens, attention.grid.read()), *rest)


def _cuts_windows(block: nn.Module) -> bool:
    """A method of the block cuts windows (timm); its attention sees nothing else."""
    if not is_at(block, 'attn.qkv', nn.Module):
        return False
    return any(callable(getattr(block, name, None)) for name in _CUTTING)


def _extend_cutting(block: nn.Module) -> None:
    name = next(name for name in _CUTTING if hasattr(block, name))
    if not isinstance(block, _CUTTING[name]):
        block.attn.grid = Note()
        extend(block, _CUTTING[name])


def _before_windows(block: nn.Module, maps: Tensor) -> Tensor:
    """(B, H, W, C), or (B, C, H, W) for an attention by convolutions."""
    first = isinstance(block.attn.qkv, nn.Conv2d)
    block.attn.grid.write(tuple(maps.shape[2:] if first else maps.shape[1:3]))
    if not hasattr(block.attn, 'mix'):
        return maps
    return (mix_bchw if first else mix_bhwc)(block.attn.mix, maps)


class _SwinCutting:
    """Swin and Swin V2 of timm, whose maps are (B, H, W, C)."""

    def _attn(self, x: Tensor) -> Tensor:
        return super()._attn(_before_windows(self, x))


class _MaxViTCutting:
    """MaxViT of timm: windows and grids."""

    def _partition_attn(self, x: Tensor) -> Tensor:
        return super()._partition_attn(_before_windows(self, x))


_CUTTING = {'_attn': _SwinCutting, '_partition_attn': _MaxViTCutting}


# query_key: the same map, but values come from the map as it is


def _has_queries(owner: Owner, block: nn.Module) -> bool:
    if passes_grid(block):
        windows = hasattr(block.attn, 'window_size')
        return windows and _plain_qkv(block, 'attn.w_msa')
    if _cuts_windows(block) or not has_grid(owner, block):
        return False
    return is_at(block, 'attn.attn', nn.Module) or _plain_qkv(block, 'attn')


def _plain_qkv(block: nn.Module, attention: str) -> bool:
    """Queries, keys and values are what one linear layer gives when it is called."""
    if not is_at(block, f'{attention}.qkv', nn.Linear):
        return False
    return not hasattr(block.get_submodule(attention), 'q_bias')


def _insert_for_queries(owner: Owner, block: nn.Module, make: Make) -> None:
    grid, attention = find_grid(owner, block), block.attn
    mix = make(_channels(attention))
    if passes_grid(block):
        attention.mix, attention.w_msa.qkv.change = mix, Note()
        attention.register_forward_pre_hook(_cut_change)
        attention.w_msa.qkv.register_forward_hook(_change_in_windows)
    elif is_at(block, 'attn.attn', nn.Module):
        attention.mix = mix
        attention.register_forward_pre_hook(_keep_values, with_kwargs=True)
    else:
        attention.qkv.mix, attention.qkv.grid = mix, grid
        attention.qkv.register_forward_hook(_change_in_tokens)


def _keep_values(attention: nn.Module, args: tuple, kwargs: dict) -> tuple:
    tokens, *rest = args
    mixed = mix_tokens(attention.mix, tokens, attention.grid.read())
    return (mixed, *rest), {**kwargs, 'value': tokens}


def _change_in_tokens(qkv: nn.Linear, args: tuple, result: Tensor) -> Tensor:
    tokens = args[0]
    return _add_change(
        qkv, mix_tokens(qkv.mix, tokens, qkv.grid.read()) - tokens, result
    )


def _cut_change(attention: nn.Module, args: tuple) -> None:
    """Cut what the layer changes into windows, as the attention does with its input."""
    tokens, (height, width) = args[:2]
    change = mix_tokens(attention.mix, tokens, (height, width)) - tokens
    window, shift = attention.window_size, attention.shift_size
    # mmpretrain shifts no map of one window unless it pads small maps
    if min(height, width) == window and not getattr(attention, 'pad_small_map', True):
        shift = 0
    change = F.pad(
        change.unflatten(1, (height, width)),
        (0, 0, 0, -width % window, 0, -height % window),
    ).roll((-shift, -shift), (1, 2))
    # (B, H / w, w, W / w, w, C) -> (windows, w * w, C)
    change = change.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    change = change.transpose(2, 3).flatten(3, 4).flatten(0, 2)
    attention.w_msa.qkv.change.write(change)


def _change_in_windows(qkv: nn.Linear, args: tuple, result: Tensor) -> Tensor:
    change = qkv.change.read()
    qkv.change.write(None)
    return _add_change(qkv, change, result)


def _add_change(qkv: nn.Linear, change: Tensor, result: Tensor) -> Tensor:
    """The change goes into queries and keys, the first two thirds."""
    width = qkv.out_features // 3
    return result + F.pad(F.linear(change, qkv.weight[: 2 * width]), (0, width))


# ffn: the hidden map of the perceptron, before its activation


def _has_perceptron(owner: Owner, block: nn.Module) -> bool:
    if _mixing_conv(block):
        return True
    hidden = _hidden(block)
    if hidden is None:
        return False
    return isinstance(hidden, nn.Conv2d) or _has_attention(owner, block)


def _hidden(block: nn.Module) -> nn.Module | None:
    """The first layer of the perceptron."""
    if not is_at(block, 'attn', nn.Module):
        return None
    for path in ('ffn.layers.0.0', 'ffn.layers.0', 'mlp.fc1'):
        for kind in (nn.Linear, nn.Conv2d):
            if is_at(block, path, kind):
                return block.get_submodule(path)
    return None


def _insert_into_perceptron(owner: Owner, block: nn.Module, make: Make) -> None:
    name = _mixing_conv(block)
    if name:
        _replace_conv(block.ffn.layers, name, make)
        return
    hidden = _hidden(block)
    if isinstance(hidden, nn.Conv2d):
        hidden.mix = make(hidden.out_channels)
    else:
        if _cuts_windows(block):
            _extend_cutting(block)
        else:
            find_grid(owner, block)
        hidden.grid, hidden.mix = block.attn.grid, make(hidden.out_features)
    hidden.register_forward_hook(_mix_hidden)


def _mix_hidden(layer: nn.Module, args: tuple, result: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return mix_bchw(layer.mix, result)
    if result.dim() == 4:
        return mix_bhwc(layer.mix, result)
    return mix_tokens(layer.mix, result, layer.grid.read())


def _mixing_conv(block: nn.Module) -> str | None:
    """Name in `ffn.layers` of the depthwise convolution of a MixFFN."""
    if not is_at(block, 'ffn.layers', nn.Sequential):
        return None
    for name, module in block.ffn.layers.named_children():
        if _is_depthwise(module):
            return name
    return None


# conv: in place of the depthwise convolution at the head of a block


def _has_conv(owner: Owner, block: nn.Module) -> bool:
    return _head_conv(block) is not None


def _head_conv(block: nn.Module) -> str | None:
    """Name of the depthwise convolution of a ConvNeXt block."""
    perceptron = any(is_at(block, n, nn.Module) for n in ('mlp', 'pointwise_conv1'))
    if not perceptron or not is_at(block, 'norm', nn.Module):
        return None
    for name in ('depthwise_conv', 'conv_dw'):
        if _is_depthwise(getattr(block, name, None)):
            return name
    return None


def _insert_for_conv(owner: Owner, block: nn.Module, make: Make) -> None:
    _replace_conv(block, _head_conv(block), make)


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


def _is_depthwise(module: Any) -> bool:
    if not isinstance(module, nn.Conv2d) or set(module.stride) != {1}:
        return False
    return module.groups == module.in_channels == module.out_channels > 1


PLACES = {
    'attention': Place(
        'the normed map before windows, queries, keys and values',
        _has_attention,
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
