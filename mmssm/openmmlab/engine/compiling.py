"""The backbone compiled for training."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmssm.openmmlab.engine.wrappers import unwrapped
from mmssm.openmmlab.errors import UserError
from mmssm.registry import HOOKS

MODES = (None, 'default', 'reduce-overhead', 'max-autotune')


@HOOKS.register_module()
class CompileHook(Hook):
    """Runs a part of the model through torch.compile while it trains.

        custom_hooks = [dict(type='mmssm.CompileHook')]
    On a GPU a small batch waits for Python; mode='reduce-overhead' records CUDA graphs,
    which wait for nothing.  They are of one size of pictures, so that it suits training
    on crops (segmentation, classification): each further size is compiled again, up to
    torch's limit, beyond which it runs as it is.  Evaluation runs without.

    module: name of the part, 'backbone' in detectors and segmenters.
    mode: torch.compile's: None, 'default', 'reduce-overhead' or 'max-autotune'.
    dynamic: torch.compile's; True compiles once for all sizes.
    backend: torch.compile's.

    Raises UserError for another mode and for a part that the model does not have.
    """

    def __init__(
        self,
        module: str = 'backbone',
        mode: str | None = 'reduce-overhead',
        dynamic: bool | None = False,
        backend: str = 'inductor',
    ) -> None:
        if mode not in MODES:
            raise UserError(
                f'mode of CompileHook is {mode!r}; expected one of '
                f'{", ".join(map(repr, MODES))}'
            )
        self.module = module
        self.options: dict[str, Any] = {'dynamic': dynamic, 'backend': backend}
        if mode is not None and backend == 'inductor':
            self.options['mode'] = mode

    def before_train(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        try:
            part = model.get_submodule(self.module)
        except AttributeError:
            names = ', '.join(name for name, _ in model.named_children())
            raise UserError(
                f'CompileHook: {type(model).__name__} has no part {self.module!r}; '
                f'expected one of {names}, or a part of these'
            ) from None
        part.forward = while_training(part, torch.compile(part.forward, **self.options))
        runner.logger.info(
            'CompileHook: the first iterations compile %s; later ones are timed by '
            'the log',
            self.module,
        )

    def after_train(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        del model.get_submodule(self.module).forward  # that of its class is behind it


def while_training(part: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled form in training, the part's own in evaluation."""
    own = part.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        return (compiled if part.training else own)(*inputs, **options)

    return forward
