"""MESA: a network that learns from the moving average of its own weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn

from mmssm.openmmlab.errors import UserError
from mmssm.registry import HOOKS

LABELS, TEACHER = 'loss_labels', 'loss_mesa'


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student's classes with the teacher's as the truth.

        mean_b -sum_k softmax(t_b)_k log softmax(s_b)_k
    (MESA of arXiv 2205.14083, which writes the KL divergence; the teacher's entropy,
    by which they differ, has no gradient)

    student, teacher: logits (B, K).  No gradient goes to the teacher.  Returns ().
    """
    truth = teacher.detach().float().softmax(1)
    return F.cross_entropy(student.float(), truth)


@HOOKS.register_module()
class MESAHook(EMAHook):
    """Adds the loss against the moving average of the weights, from some epoch on.

        L = L_labels + weight * distillation_loss(model(x), average(x))
    x is the batch after mixing; the average is in evaluation mode, and of the weights
    after the step before.  Spatial-Mamba and MILA are trained so.  It is mmengine's
    EMAHook, too: the average is validated, and is what a checkpoint holds as its
    weights, so that it goes on into `init_cfg` and comes back with --resume.

    weight: of the loss.  begin: part of the run, in whole epochs (of a loop that counts
    iterations, in iterations), before which the average only follows.  momentum: share
    of the new weights in a step, 1 minus the decay of the papers.  update_buffers: the
    statistics of batch norms are averaged, too, as timm does.
    options: others of EMAHook.

        custom_hooks = [dict(type='mmssm.MESAHook', weight=1.0)]

    Raises ValueError for a weight or begin out of range; UserError where the model is
    no classifier of mmpretrain with a head.
    """

    def __init__(
        self,
        weight: float = 1.0,
        begin: float = 0.25,
        momentum: float = 1e-4,
        update_buffers: bool = True,
        **options: object,
    ) -> None:
        if not isinstance(weight, int | float) or not 0 < weight < float('inf'):
            raise ValueError(f'weight is {weight!r}; expected a number above 0')
        if not isinstance(begin, int | float) or not 0 <= begin < 1:
            raise ValueError(
                f'begin is {begin!r}; expected a part of the run, from 0 to below 1'
            )
        super().__init__(momentum=momentum, update_buffers=update_buffers, **options)
        self.weight = weight
        self.begin = begin
        self.teaches = False

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_model_wrapper(self.src_model) or not hasattr(self.src_model, 'head'):
            raise UserError(
                'MESAHook needs a classifier of mmpretrain with a head; this is a '
                f'{type(self.src_model).__name__}'
            )
        self.teacher.eval()
        model = self.src_model
        model.loss = _Distilled(model.loss, model.head, self)

    def after_train(self, runner: Runner) -> None:
        super().after_train(runner)
        vars(self.src_model).pop('loss', None)  # the method of the class is back

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None
    ) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        self.teaches = self._begun(runner)

    @property
    def teacher(self) -> nn.Module:
        """The average of the weights."""
        return self.ema_model.module

    def _begun(self, runner: Runner) -> bool:
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            return runner.epoch >= int(self.begin * runner.max_epochs)
        return runner.iter >= int(self.begin * runner.max_iters)


class _Distilled:
    """The loss of a classifier, with the teacher's beside it while the hook teaches.

    They are `loss_labels` and `loss_mesa` in the log then, and `loss` is their sum.
    plain: the classifier's own loss.  head: gives its logits.
    """

    def __init__(self, plain: Callable, head: nn.Module, hook: MESAHook) -> None:
        self.plain = plain
        self.head = head
        self.hook = hook

    def __call__(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        if not self.hook.teaches:
            return self.plain(inputs, data_samples)
        seen: list[Tensor] = []
        handle = self.head.register_forward_hook(lambda head, args, y: seen.append(y))
        try:
            losses = self.plain(inputs, data_samples)
        finally:
            handle.remove()
        with torch.no_grad():
            teacher = self.hook.teacher(inputs, mode='tensor')
        loss = distillation_loss(seen[-1], teacher)
        if 'loss' in losses:  # the log keeps this name for the sum
            losses[LABELS] = losses.pop('loss')
        return {**losses, TEACHER: self.hook.weight * loss}
