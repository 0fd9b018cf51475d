"""Training and testing: everything between a config and mmengine's runner."""

from collections.abc import Mapping
from typing import NamedTuple

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mmssm.openmmlab import released
from mmssm.openmmlab.engine import configs, mixed_precision
from mmssm.openmmlab.engine.classes import check_classes
from mmssm.openmmlab.engine.cpu import adapt_to_cpu
from mmssm.openmmlab.engine.distributed import process_group
from mmssm.openmmlab.engine.loading import (
    START_FROM,
    CheckpointFitHook,
    check_exists,
    use_safe_loading,
)
from mmssm.openmmlab.engine.paths import check_paths, check_pretrained
from mmssm.openmmlab.engine.progress import ProgressHook
from mmssm.openmmlab.engine.randomness import ResumableRandomnessHook
from mmssm.openmmlab.engine.resuming import resolve_resume
from mmssm.openmmlab.engine.saving import use_atomic_files
from mmssm.openmmlab.errors import UserError
from mmssm.weights import DownloadError, official_name


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
) -> None:
    """Train as a config says.

    amp: kind of mixed precision, see `mixed_precision.enable_amp`; None: the config's.
    resume: 'auto' for the newest complete checkpoint of the work_dir, or a path.
    Raises UserError for what the user can put right.
    """
    use_atomic_files()
    use_safe_loading()
    configs.require(cfg, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    configs.require_together(cfg, 'val')
    check_paths(cfg, ('train', 'val'))
    check_pretrained(cfg)
    configs.check_backbones(cfg)
    check_classes(cfg, ('train', 'val'))
    if amp:
        mixed_precision.enable_amp(cfg, amp)
    if cfg.optim_wrapper.get('type') in mixed_precision.WRAPPERS:
        mixed_precision.use_float32_ops()
    if auto_scale_lr:
        configs.enable_lr_scaling(cfg)
    notes = resolve_resume(cfg, resume)
    _save_safely(cfg)
    hooks = [
        ResumableRandomnessHook(),
        CheckpointFitHook(strict=cfg.resume, advice=START_FROM),
    ]
    with process_group(cfg):
        runner = _build_runner(cfg, hooks, notes)
        try:
            runner.train()
        except DownloadError as error:
            raise UserError(str(error)) from error
        _close(runner)
        del runner


def evaluate(
    cfg: Config, checkpoint: str, options: EvaluationOptions | None = None
) -> Mapping[str, float]:
    """Evaluate a checkpoint as a config says; returns the metrics.

    checkpoint: a file of ours, or 'official': the detector or segmenter that was
    released for a config of this name, downloaded and converted once.
    Raises UserError for what the user can put right, among it a checkpoint whose keys
    are not those of the model.
    """
    options = options or EvaluationOptions()
    use_atomic_files()
    use_safe_loading()
    configs.require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_paths(cfg, ('test',))
    configs.check_backbones(cfg)
    check_classes(cfg, ('test',))
    if checkpoint == 'official':
        checkpoint = _official(cfg)
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
    with process_group(cfg):
        runner = _build_runner(cfg, hooks, [])
        with mixed_precision.autocast(options.amp):
            metrics = runner.test()
        _close(runner)
        del runner
    return metrics


def _official(cfg: Config) -> str:
    """File under our names of what was released for the config."""
    try:
        return str(released.converted(official_name('', '', task=cfg.filename or '')))
    except (DownloadError, ValueError) as error:
        raise UserError(str(error)) from error


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
