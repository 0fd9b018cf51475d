"""The layer behind modules that the user names, in networks that nobody described."""

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import Tensor, nn

from mmssm.hosts.mix import mix_bchw, mix_bhwc, mix_tokens
from mmssm.hosts.places import Make
from mmssm.hosts.token_grid import Note

LAYOUTS = ('BCHW', 'BHWC', 'tokens')


def insert_behind(
    host: nn.Module, modules: Mapping[str, str], stride: int | None, make: Make
) -> None:
    """Filter what the named modules give.

    modules: pattern of names, as of files -> layout of what they give, 'BCHW', 'BHWC'
    or 'tokens', (B, leading + H W, C), for which stride says how many pixels of the
    image a token stands for: their grid is (height // stride, width // stride).
    Raises ValueError for a pattern without a module, another layout, a module whose
    number of channels cannot be told, and tokens without a stride.
    """
    chosen = [
        (name, module, layout)
        for pattern, layout in modules.items()
        for name, module in _matching(host, pattern, layout)
    ]
    widths = [_channels(name, module) for name, module, _ in chosen]
    if any(layout == 'tokens' for *_, layout in chosen):
        if stride is None or stride < 1:
            raise ValueError(
                f'stride is {stride}; tokens need that of their grid, a number from 1 '
                '(the patch size)'
            )
        host.image_size = Note()
        host.register_forward_pre_hook(_note_image, with_kwargs=True)
    for (_, module, layout), channels in zip(chosen, widths, strict=True):
        module.mix = make(channels)
        if layout == 'tokens':
            module.image_size, module.token_stride = host.image_size, stride
        module.register_forward_hook(_HOOKS[layout])


def _matching(
    host: nn.Module, pattern: str, layout: str
) -> list[tuple[str, nn.Module]]:
    if layout not in LAYOUTS:
        raise ValueError(
            f'modules has {pattern!r}: {layout!r}; expected a layout, one of {LAYOUTS}'
        )
    names = dict(host.named_modules())
    found = [(n, m) for n, m in names.items() if n and fnmatchcase(n, pattern)]
    if not found:
        close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
        raise ValueError(
            f'modules has {pattern!r}, which no module of {type(host).__name__} is '
            f'called; its names include {", ".join(close or list(names)[1:4])}'
        )
    return found


def _channels(name: str, module: nn.Module) -> int:
    """Of what a module gives."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.BatchNorm2d):
        return module.num_features
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    raise ValueError(
        f'{name} is a {type(module).__name__}, which does not tell its number of '
        'channels; name the Linear, Conv2d or norm whose output is to be filtered'
    )


def _note_image(host: nn.Module, args: tuple, kwargs: dict) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() == 4:
            host.image_size.write(tuple(value.shape[-2:]))
            return


def _mix_bchw(module: nn.Module, args: tuple, result: Tensor) -> Tensor:
    return mix_bchw(module.mix, result)


def _mix_bhwc(module: nn.Module, args: tuple, result: Tensor) -> Tensor:
    return mix_bhwc(module.mix, result)


def _mix_tokens(module: nn.Module, args: tuple, result: Tensor) -> Tensor:
    height, width = module.image_size.read()
    stride = module.token_stride
    return mix_tokens(module.mix, result, (height // stride, width // stride))


_HOOKS = {'BCHW': _mix_bchw, 'BHWC': _mix_bhwc, 'tokens': _mix_tokens}
