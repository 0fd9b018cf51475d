"""Activation checkpointing that batch norms do not notice."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), whose activations are computed again in the backward pass.

    Batch norms update their running statistics in the first computation only.
    """
    return checkpoint(
        block, x, use_reentrant=False, context_fn=partial(_contexts, block)
    )


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, ...]:
    """What the first computation and the second run under."""
    return nullcontext(), _KeepStatistics(block)


class _KeepStatistics:
    """Training batch norms use the batch as ever and leave their statistics alone.

    A momentum of 0 keeps mean and variance, and a stand-in counts the batches.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]

    def __enter__(self) -> None:
        self.kept = [(m.momentum, m.num_batches_tracked) for m in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
