"""The grid that a block's tokens form, for modules inside the block."""

import functools
import inspect
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssm.hosts.extension import extend


class Note:
    """What one module of the host leaves for another, in the call of this thread.

    A copy, by pickle too, starts empty.
    """

    def __init__(self) -> None:
        self._call = threading.local()

    def write(self, value: Any) -> None:
        self._call.value, self._call.backward = value, _backward()

    def read(self) -> Any:
        """The last value; RuntimeError where this call has none."""
        if getattr(self._call, 'backward', None) != _backward():
            raise RuntimeError(
                'the grid of these tokens is not known: a block is called without its '
                'network, or recomputed in the backward pass by a checkpoint with '
                'use_reentrant=True, or by with_cp switched on after the 2-D SSM was '
                'added; use use_reentrant=False, or with_cp=True from the start'
            )
        return self._call.value

    def __reduce__(self) -> tuple:
        return type(self), ()


def _backward() -> int:
    """Number of the backward pass that this call is part of, or -1."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def has_grid(owner: nn.Module | None, block: nn.Module) -> bool:
    """The block's attention is told the grid, or the owner's patch embedding is.

    owner: the module with the patch embedding around the block, if there is one.
    """
    if passes_grid(block):
        return True
    if owner is None or not is_at(block, 'attn', nn.Module):
        return False
    whole = is_at(block, 'attn.attn', nn.MultiheadAttention)
    return whole or is_at(block, 'attn.qkv', nn.Linear)


def passes_grid(block: nn.Module) -> bool:
    """The block passes the grid on to its attention."""
    if not is_at(block, 'attn', nn.Module):
        return False
    return 'hw_shape' in inspect.signature(block.attn.forward).parameters


def find_grid(owner: nn.Module | None, block: nn.Module) -> Note:
    """The grid of a block that has one; `block.attn.grid` from now on.

    It can be read inside the block, from the attention on.
    """
    if passes_grid(block):
        block.attn.grid = Note()
        block.attn.register_forward_pre_hook(_note_argument)
        return block.attn.grid
    if not hasattr(owner.patch_embed, 'grid'):
        owner.patch_embed.grid = Note()
        owner.patch_embed.register_forward_hook(_note_patches)
    block.attn.grid = owner.patch_embed.grid
    block.recompute, block.with_cp = getattr(block, 'with_cp', False), False
    extend(block, _OnGrid)
    return block.attn.grid


def is_at(module: nn.Module, path: str, kind: type[nn.Module]) -> bool:
    """The module has a submodule of this kind at the path."""
    try:
        return isinstance(module.get_submodule(path), kind)
    except AttributeError:
        return False


def _note_argument(attention: nn.Module, args: tuple) -> None:
    attention.grid.write(args[1])  # (tokens, hw_shape)


def _note_patches(patch_embed: nn.Module, args: tuple, result: object) -> None:
    if isinstance(result, tuple):  # (tokens, hw_shape)
        patch_embed.grid.write(result[1])
    else:  # of timm
        patch_embed.grid.write(patch_embed.dynamic_feat_size(args[0].shape[-2:]))


class _OnGrid:
    """A block of tokens that is recomputed on the grid of the call itself.

    When the way back comes, the host may have seen images of other sides, and another
    thread may run it.  So the grid goes with the tokens, which a checkpoint around the
    block keeps.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # the host's own
        grid, again = self.attn.grid, _backward() != -1
        if again and hasattr(x, 'ssm2d_grid'):
            grid.write(x.ssm2d_grid)
        size = grid.read()
        run = functools.partial(_run, super().forward, grid, size)
        if self.recompute and x.requires_grad:
            y = checkpoint(run, x, *args, use_reentrant=False, **kwargs)
        else:
            y = run(x, *args, **kwargs)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            x.ssm2d_grid = y.ssm2d_grid = size
        return y


def _run(
    forward: Any, grid: Note, size: tuple[int, int], *args: Any, **kwargs: Any
) -> Tensor:
    grid.write(size)
    return forward(*args, **kwargs)
