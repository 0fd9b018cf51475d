"""Training and testing: everything between a config and mmengine's runner."""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mmssm.openmmlab import released
from mmssm.openmmlab.data_checks.quick import check_before_training, explaining_empty
from mmssm.openmmlab.engine import configs, mixed_precision
from mmssm.openmmlab.engine.agreement import check_agreement
from mmssm.openmmlab.engine.beginning import COMMAND, SummaryHook, use_short_beginning
from mmssm.openmmlab.engine.classes import check_classes
from mmssm.openmmlab.engine.config_keys import check_config
from mmssm.openmmlab.engine.cpu import adapt_to_cpu
from mmssm.openmmlab.engine.distributed import is_first, keep_strides, process_group
from mmssm.openmmlab.engine.gradients import GradientCheckHook
from mmssm.openmmlab.engine.loading import (
    START_FROM,
    CheckpointFitHook,
    check_exists,
    use_safe_loading,
)
from mmssm.openmmlab.engine.mishaps import mishaps_told, only_run_in
from mmssm.openmmlab.engine.non_finite import NonFiniteLossHook
from mmssm.openmmlab.engine.paths import check_paths, check_pretrained
from mmssm.openmmlab.engine.progress import ProgressHook
from mmssm.openmmlab.engine.randomness import ResumableRandomnessHook
from mmssm.openmmlab.engine.resuming import resolve_resume
from mmssm.openmmlab.engine.saving import use_atomic_files
from mmssm.openmmlab.engine.schedule import prepare_schedule
from mmssm.openmmlab.engine.stopping import StopHook, resume_command


class EvaluationOptions(NamedTuple):
    """The flags of the test tool, see mmssm.openmmlab.cli.test."""

    out: str | None = None
    show: bool = False
    show_dir: str | None = None
    wait_time: float = 2.0
    tta: bool = False
    amp: str | None = None
    lenient_keys: bool = False


def train(
    cfg: Config,
    *,
    amp: str | None = None,
    auto_scale_lr: bool = False,
    resume: str | None = None,
    on_nan: str | None = None,
    arguments: Sequence[str] = (),
    fit_schedule: bool = False,
    skip_checks: bool = False,
) -> None:
    """Train as a config says.

    amp: kind of mixed precision, see `mixed_precision.enable_amp`; None: the config's.
    resume: 'auto' for the newest complete checkpoint of the work_dir, or a path.
    on_nan: 'stop', 'skip' or 'warn', see `NonFiniteLossHook`; None: the config's hook,
    without one 'stop'.
    arguments: of the command, for the one that goes on after an interruption.
    fit_schedule: scale warm-up and milestones to the run, see `schedule.fit_schedule`.
    skip_checks: train whatever a first look at the data finds.
    Raises UserError for what the user can put right.
    """
    use_atomic_files()
    use_safe_loading()
    use_short_beginning()
    configs.require(cfg, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    check_config(cfg)
    configs.require_together(cfg, 'val')
    check_paths(cfg, ('train', 'val'))
    check_pretrained(cfg)
    check_classes(cfg, ('train', 'val'))
    check_agreement(cfg, ('train', 'val'))
    if amp:
        mixed_precision.enable_amp(cfg, amp)
    if cfg.optim_wrapper.get('type') in mixed_precision.WRAPPERS:
        mixed_precision.use_float32_ops()
    if auto_scale_lr:
        configs.enable_lr_scaling(cfg)
    notes = [f'{COMMAND}{shlex.join(["mmssm-train", *arguments])}'] * bool(arguments)
    notes += resolve_resume(cfg, resume)
    _save_safely(cfg)
    hooks = [
        ResumableRandomnessHook(),
        CheckpointFitHook(strict=cfg.resume, advice=START_FROM),
        GradientCheckHook(),
        NonFiniteLossHook(on_nan or 'stop'),
        SummaryHook(),
    ]
    if on_nan:
        _replace_hook(cfg, NonFiniteLossHook)
    command = resume_command(cfg, arguments, os.environ)
    stop = StopHook(command)
    held = only_run_in(cfg.work_dir) if is_first(cfg.launcher) else nullcontext()
    with process_group(cfg), mishaps_told(command):
        if not skip_checks:
            notes += check_before_training(cfg, ('train', 'val'))
        with held:
            runner = _build_runner(cfg, [*hooks, stop], notes)
            if runner.distributed:
                keep_strides(runner.model)
            try:
                with explaining_empty(cfg, ('train', 'val')):
                    prepare_schedule(runner, fit_schedule)
                    runner.train()
            finally:
                stop.restore()
                _close(runner)
                del runner


def evaluate(
    cfg: Config, checkpoint: str, options: EvaluationOptions | None = None
) -> Mapping[str, float]:
    """Evaluate a checkpoint as a config says; returns the metrics.

    checkpoint: a file of ours, or 'official': the detector or segmenter that was
    released for a config of this name, or the classifier of its backbone, downloaded
    and converted once.
    Raises UserError for what the user can put right, among it a checkpoint whose keys
    are not those of the model.
    """
    options = options or EvaluationOptions()
    use_atomic_files()
    use_safe_loading()
    use_short_beginning()
    configs.require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_config(cfg)
    check_paths(cfg, ('test',))
    check_classes(cfg, ('test',))
    check_agreement(cfg, ('test',))
    if checkpoint == 'official':
        checkpoint = released.of_config(cfg)
    check_exists(checkpoint)
    if options.amp:
        mixed_precision.use_float32_ops()
    cfg.resume, cfg.load_from = False, checkpoint
    if options.show or options.show_dir:
        configs.enable_drawing(cfg, options.show_dir, options.show, options.wait_time)
    if options.out is not None:
        configs.enable_saving(cfg, options.out)
    if options.tta:
        configs.enable_tta(cfg)
    hooks = [CheckpointFitHook(strict=not options.lenient_keys)]
    with process_group(cfg), mishaps_told():
        runner = _build_runner(cfg, hooks, [])
        with (
            mixed_precision.autocast(options.amp),
            explaining_empty(cfg, ('test',)),
        ):
            metrics = runner.test()
        _close(runner)
        del runner
    return metrics


def _build_runner(cfg: Config, hooks: list[Hook], notes: list[str]) -> Runner:
    if get_device() == 'cpu':
        notes = [*notes, *adapt_to_cpu(cfg)]
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for note in notes:
        runner.logger.info(note)
    present = {type(hook) for hook in runner.hooks}
    for hook in (*hooks, ProgressHook()):
        if type(hook) not in present:
            runner.register_hook(hook)
    return runner


def _close(runner: Runner) -> None:
    """Stop the processes that load data; the garbage collector takes 5 s for each."""
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = None
        if isinstance(loop, BaseLoop):
            loop.dataloader._iterator = None


def _replace_hook(cfg: Config, kind: type[Hook]) -> None:
    """Take a hook out of the config that a flag is to replace."""
    names = (kind, kind.__name__, f'mmssm.{kind.__name__}')
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [h for h in hooks if h.get('type') not in names]


def _save_safely(cfg: Config) -> None:
    hooks = cfg.get('default_hooks') or {}
    kind = (hooks.get('checkpoint') or {}).get('type', 'CheckpointHook')
    if kind in ('CheckpointHook', CheckpointHook):
        ours = {'default_hooks': {'checkpoint': {'type': 'mmssm.CheckpointHook'}}}
        cfg.merge_from_dict(ours)
