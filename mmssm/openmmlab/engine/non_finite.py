"""Losses that are not finite: named, and the step stopped, left out or taken."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmssm import weights
from mmssm.openmmlab.engine.batches import as_plain, picture_paths
from mmssm.openmmlab.engine.wrappers import unwrapped
from mmssm.openmmlab.errors import UserError
from mmssm.registry import HOOKS

ACTIONS = ('stop', 'skip', 'warn')
MOST_PICTURES = 8


class LeftOut(Exception):  # noqa: N818 (no error: it carries a step past its update)
    """Ends a training step before its backward pass."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Looks at each loss before the backward pass; all processes decide together.

    One process with a loss of NaN or infinity makes all of them act, and its rank, the
    terms, the iteration and the pictures are named.  action:

    'stop': the batch of that process is saved in the work_dir with the weights that
    gave the loss (`tools/analysis/replay_batch.py` repeats it), and UserError ends the
    run.
    'skip': no backward pass and no optimizer step, so that neither parameters, nor
    momentum, nor gradients being accumulated change, and none of the losses is
    logged; steps of accumulation are filled up by the batches that follow.  Not undone:
    what the forward pass itself changes, as the running statistics of batch norms; the
    schedule and an exponential moving average count the step.
    'warn': a line in the log; the step is taken.

    Only losses count.  Gradients in float16 that overflow while the scale of the loss
    is being found are left to the scaler.  Raises ValueError for another action.
    """

    priority = 'VERY_HIGH'

    def __init__(self, action: str = 'stop') -> None:
        if action not in ACTIONS:
            raise ValueError(f'action is {action!r}; expected one of {ACTIONS}')
        self.action = action
        self.left_out = 0
        self._batch: object = None

    def before_train(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        model.parse_losses = self._watched(runner, model.parse_losses)
        runner.model.train_step = _ended_early(runner.model.train_step)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None
    ) -> None:
        self._batch = data_batch

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Mapping | None = None,
    ) -> None:
        self._batch = None

    def after_train(self, runner: Runner) -> None:
        if self.left_out:
            runner.logger.warning(
                f'{self.left_out} of {runner.iter} steps were left out: their losses '
                'were not finite'
            )

    def _watched(self, runner: Runner, parse: Callable) -> Callable:
        @torch.compiler.disable
        def parse_losses(losses: Mapping[str, object]) -> tuple[Tensor, dict]:
            loss, parts = parse(losses)
            if not _all_finite(loss, parts):
                self._act(runner, parts)
            return loss, parts

        return parse_losses

    def _act(self, runner: Runner, parts: Mapping[str, Tensor]) -> None:
        terms = not_finite(parts)
        mine = None
        if terms:
            mine = (runner.rank, terms, picture_paths(self._batch), '')
            if self.action == 'stop':
                saved = self._save(runner, terms)
                mine = (*mine[:3], f'; {saved}')
        found = [one for one in dist.all_gather_object(mine) if one is not None]
        several = dist.get_world_size() > 1
        text = '; '.join(_said(*one, several=several) for one in found)
        text = f'the loss of iteration {runner.iter + 1} is not finite: {text}'
        if self.action == 'stop':
            raise UserError(
                f'{text}. To go on all the same: --on-nan skip leaves such steps out, '
                '--on-nan warn takes them'
            )
        if self.action == 'warn':
            runner.logger.warning(f'{text}; the step is taken')
            return
        self.left_out += 1
        runner.logger.warning(f'{text}; step left out ({self.left_out} so far)')
        raise LeftOut

    def _save(self, runner: Runner, terms: Mapping[str, float]) -> str:
        """Write the batch and the weights; what to say of it."""
        name = f'non_finite_iter_{runner.iter + 1}_rank_{runner.rank}.pth'
        path = Path(runner.work_dir, name)
        model = unwrapped(runner.model)
        content = {
            'meta': {
                'iter': runner.iter + 1,
                'rank': runner.rank,
                'seed': runner.seed,
                'terms': terms,
            },
            'batch': as_plain(self._batch),
            'state_dict': {n: value.cpu() for n, value in model.state_dict().items()},
        }
        try:
            weights.save_file(content, path)
        except (OSError, TypeError) as error:
            return f'its batch could not be saved ({error})'
        config = Path(runner.work_dir, Path(runner.cfg.filename or 'CONFIG').name)
        return (
            f'its batch and the weights are in {path}; repeat it by '
            f'python tools/analysis/replay_batch.py {config} {path}'
        )


def not_finite(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses of `parse_losses` that are NaN or infinite, by their names.

    'loss', their sum, is among them only where every term is finite.
    """
    terms = {
        name: value.item()
        for name, value in parts.items()
        if 'loss' in name and not bool(torch.isfinite(value).all())
    }
    if len(terms) > 1:
        terms.pop('loss', None)
    return terms


def _all_finite(loss: Tensor, parts: Mapping[str, Tensor]) -> bool:
    """Whether the losses of all processes are; one number is exchanged."""
    losses = [value for name, value in parts.items() if 'loss' in name]
    losses = torch.stack([value.detach().float() for value in (loss, *losses)])
    bad = (~torch.isfinite(losses)).any().to(torch.int32)
    dist.all_reduce(bad, 'max')
    return not bad.item()


def _ended_early(train_step: Callable) -> Callable:
    def step(data: object, optim_wrapper: object) -> dict[str, Tensor]:
        try:
            return train_step(data, optim_wrapper=optim_wrapper)
        except LeftOut:
            return {}

    return step


def _said(
    rank: int,
    terms: Mapping[str, float],
    pictures: Sequence[str],
    more: str,
    several: bool,
) -> str:
    values = ', '.join(f'{name} is {value}' for name, value in terms.items())
    where = f' on rank {rank}' if several else ''
    return f'{values}{where}, with {_listed(pictures)}{more}'


def _listed(pictures: Sequence[str]) -> str:
    if not pictures:
        return 'a batch that names no pictures'
    rest = len(pictures) - MOST_PICTURES
    more = [f'{rest} more'] if rest > 0 else []
    return ', '.join([*pictures[:MOST_PICTURES], *more])
