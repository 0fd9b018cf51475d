"""Parameters that get no gradient, named before the first step."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmssm.openmmlab.engine.explaining import without_gradient
from mmssm.openmmlab.errors import UserError
from mmssm.registry import HOOKS


@HOOKS.register_module()
class GradientCheckHook(Hook):
    """Compares the parameters with what the first loss depends on.

    In one process those without a gradient are a warning.  Under data parallelism that
    does not look for them, training would stop in the second iteration; here it stops
    before the first step with UserError.
    """

    def __init__(self) -> None:
        self._done = False

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None
    ) -> None:
        wrapper = runner.optim_wrapper
        if self._done or not isinstance(wrapper, OptimWrapper):
            return
        self._done = True
        plain = wrapper.backward

        def backward(loss: Tensor, **kwargs: object) -> None:
            del wrapper.backward  # the method of its class stands behind it
            self._check(runner, loss)
            plain(loss, **kwargs)

        wrapper.backward = backward

    def _check(self, runner: Runner, loss: Tensor) -> None:
        model, parallel = runner.model, False
        if isinstance(model, DistributedDataParallel):
            if model.find_unused_parameters or model.static_graph:
                return
            model, parallel = model.module, True
        elif is_model_wrapper(model):
            return  # its parameters are shards
        names = unreached(model, loss)
        if names and parallel:
            raise UserError(without_gradient(names))
        if names:
            runner.logger.warning(without_gradient(names))


def unreached(model: nn.Module, loss: Tensor) -> list[str]:
    """Names of the parameters that want a gradient and that the loss does not reach.

    A checkpoint with use_reentrant=True hides what is behind it: then none is named.
    """
    reached, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = type(node).__name__
        if kind == 'CheckpointFunctionBackward':
            return []
        if kind == 'AccumulateGrad':
            reached.add(id(node.variable))
        waiting += [inner for inner, _ in node.next_functions]
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in reached
    ]
