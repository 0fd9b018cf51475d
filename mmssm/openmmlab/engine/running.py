"""Training and testing: everything between a config and mmengine's runner."""

from collections.abc import Mapping
from typing import NamedTuple

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mmssm.openmmlab.engine import configs
from mmssm.openmmlab.engine.checkpoints import (
    CheckpointFitHook,
    check_exists,
    latest_checkpoint,
    read_checkpoint,
    use_safe_loading,
)
from mmssm.openmmlab.engine.cpu import adapt_to_cpu
from mmssm.openmmlab.engine.datasets import check_paths, check_pretrained
from mmssm.openmmlab.engine.distributed import process_group
from mmssm.openmmlab.engine.progress import ProgressHook
from mmssm.openmmlab.engine.randomness import ResumableRandomnessHook
from mmssm.openmmlab.engine.storage import use_atomic_files


class EvaluationOptions(NamedTuple):
    """The flags of the test tool, see mmssm.openmmlab.cli.test."""

    out: str | None = None
    show: bool = False
    show_dir: str | None = None
    wait_time: float = 2.0
    tta: bool = False
    lenient_keys: bool = False


def train(
    cfg: Config,
    *,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: str | None = None,
) -> None:
    """Train as a config says.

    resume: 'auto' for the newest complete checkpoint of the work_dir, or a path.
    Raises UserError for what the user can put right.
    """
    use_atomic_files()
    use_safe_loading()
    configs.require(cfg, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    check_paths(cfg, ('train', 'val'))
    check_pretrained(cfg)
    configs.check_backbones(cfg)
    if amp:
        configs.enable_amp(cfg)
    if auto_scale_lr:
        configs.enable_lr_scaling(cfg)
    notes = _resolve_resume(cfg, resume)
    _save_safely(cfg)
    hooks = [ResumableRandomnessHook(), CheckpointFitHook(strict=cfg.resume)]
    with process_group(cfg):
        runner = _build_runner(cfg, hooks, notes)
        runner.train()
        _close(runner)
        del runner


def evaluate(
    cfg: Config, checkpoint: str, options: EvaluationOptions | None = None
) -> Mapping[str, float]:
    """Evaluate a checkpoint as a config says; returns the metrics.

    Raises UserError for what the user can put right, among it a checkpoint whose keys
    are not those of the model.
    """
    options = options or EvaluationOptions()
    use_atomic_files()
    use_safe_loading()
    configs.require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_paths(cfg, ('test',))
    configs.check_backbones(cfg)
    check_exists(checkpoint)
    cfg.resume, cfg.load_from = False, checkpoint
    if options.show or options.show_dir:
        configs.enable_drawing(cfg, options.show_dir, options.show, options.wait_time)
    if options.out is not None:
        configs.enable_saving(cfg, options.out)
    if options.tta:
        configs.enable_tta(cfg)
    hooks = [CheckpointFitHook(strict=not options.lenient_keys)]
    with process_group(cfg):
        runner = _build_runner(cfg, hooks, [])
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


def _save_safely(cfg: Config) -> None:
    hooks = cfg.get('default_hooks') or {}
    kind = (hooks.get('checkpoint') or {}).get('type', 'CheckpointHook')
    if kind in ('CheckpointHook', CheckpointHook):
        ours = {'default_hooks': {'checkpoint': {'type': 'mmssm.CheckpointHook'}}}
        cfg.merge_from_dict(ours)


def _resolve_resume(cfg: Config, resume: str | None) -> list[str]:
    """Set load_from, resume and, from the checkpoint, the seed; lines for the log."""
    if resume == 'auto':
        cfg.resume, cfg.load_from = True, None
    elif resume is not None:
        cfg.resume, cfg.load_from = True, resume
    cfg.resume = bool(cfg.get('resume'))
    notes = []
    if cfg.resume and cfg.get('load_from') is None:
        cfg.load_from, broken = latest_checkpoint(cfg.work_dir)
        notes = [f'{path} is not complete; it is passed over' for path in broken]
        if cfg.load_from is None:
            cfg.resume = False
            notes.append(f'no checkpoint in {cfg.work_dir}: training starts anew')
    if cfg.get('load_from') is not None:
        check_exists(cfg.load_from)
    if cfg.resume:
        if (cfg.get('randomness') or {}).get('seed') is None:
            # the sampler is built with the seed before mmengine resumes it
            seed = read_checkpoint(cfg.load_from)['meta'].get('seed')
            cfg.merge_from_dict({'randomness': {'seed': seed}})
        notes.append(f'resuming from {cfg.load_from}')
    return notes
