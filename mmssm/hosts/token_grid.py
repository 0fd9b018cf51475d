"""The grid that a block's tokens form, for modules inside the block."""

import functools
import inspect

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Grid:
    """Height and width of the tokens in the call that is going on."""

    size: tuple[int, int]


def has_grid(host: nn.Module, block: nn.Module) -> bool:
    """The block's attention is told the grid, or the host's patch embedding is."""
    return passes_grid(block) or (
        is_at(host, 'patch_embed', nn.Module)
        and is_at(block, 'attn.attn', nn.MultiheadAttention)
    )


def passes_grid(block: nn.Module) -> bool:
    """The block passes the grid on to its attention."""
    if not is_at(block, 'attn', nn.Module):
        return False
    return 'hw_shape' in inspect.signature(block.attn.forward).parameters


def find_grid(host: nn.Module, block: nn.Module) -> Grid:
    """The grid of a block that has one; `block.attn.grid` from now on.

    It is valid inside the block, from the attention on.
    """
    if passes_grid(block):
        block.attn.grid = Grid()
        block.attn.register_forward_pre_hook(_note_argument)
        return block.attn.grid
    if not hasattr(host.patch_embed, 'grid'):
        host.patch_embed.grid = Grid()
        host.patch_embed.register_forward_hook(_note_result)
    block.attn.grid = host.patch_embed.grid
    block.recompute, block.with_cp = getattr(block, 'with_cp', False), False
    block.__class__ = _on_grid(type(block))
    return block.attn.grid


def is_at(module: nn.Module, path: str, kind: type[nn.Module]) -> bool:
    """The module has a submodule of this kind at the path."""
    try:
        return isinstance(module.get_submodule(path), kind)
    except AttributeError:
        return False


def _note_argument(attention: nn.Module, args: tuple) -> None:
    attention.grid.size = args[1]  # (tokens, hw_shape)


def _note_result(patch_embed: nn.Module, args: tuple, result: tuple) -> None:
    patch_embed.grid.size = result[1]  # (tokens, hw_shape)


@functools.cache
def _on_grid(block_class: type[nn.Module]) -> type[nn.Module]:
    """A class of blocks that are recomputed on the grid of the call itself.

    When the way back comes, the host may have seen images of other sides.
    """

    def run(block: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
        block.attn.grid.size = size
        return block_class.forward(block, x)

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        if self.recompute and x.requires_grad:
            return checkpoint(run, self, x, self.attn.grid.size, use_reentrant=False)
        return block_class.forward(self, x)

    return type(block_class.__name__, (block_class,), {'forward': forward})
