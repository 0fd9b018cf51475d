"""Reading a config, and the changes that the flags of the tools make to it."""

import difflib
import traceback
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmssm.layers.arguments import shown
from mmssm.openmmlab.engine.quiet import use_quiet_imports
from mmssm.openmmlab.errors import MissingPackage, UserError

DETECTION, SEGMENTATION, CLASSIFICATION = SCOPES = 'mmdet', 'mmseg', 'mmpretrain'
# what the visualization hook of each calls its switch, and what saves predictions
DRAW = {DETECTION: 'draw', SEGMENTATION: 'draw', CLASSIFICATION: 'enable'}
DUMPS = {DETECTION: 'mmdet.DumpDetResults', CLASSIFICATION: 'DumpResults'}
# how a detection test packs a view that was flipped
DETECTED = {
    'type': 'PackDetInputs',
    'meta_keys': (
        'img_id',
        'img_path',
        'ori_shape',
        'img_shape',
        'scale_factor',
        'flip',
        'flip_direction',
    ),
}


def read_config(
    path: str, options: Mapping[str, object] | None = None, work_dir: str | None = None
) -> Config:
    """The config of a file, with options of the command line merged into it.

    options: 'a.b.c' -> value.  work_dir: else the config's own, else
    work_dirs/NAME_OF_THE_CONFIG.
    """
    use_quiet_imports()
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise UserError(f'cannot read the config {path}: {error}') from error
    except SyntaxError as error:
        raise UserError(f'the config {path} is not valid Python: {error}') from error
    except ModuleNotFoundError:
        raise  # the commands name what is not installed
    except Exception as error:  # a config is Python, which may raise anything
        raise UserError(_why_not_read(path, error)) from error
    if options:
        _check_keys(cfg, options)
        try:
            cfg.merge_from_dict(dict(options))
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(
                f'--cfg-options {" ".join(options)} does not fit the config: {error}'
            ) from error
    scope = cfg.get('default_scope')
    if scope in SCOPES and find_spec(scope) is None:
        raise MissingPackage(scope)
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(path).stem}'
    return cfg


def require(cfg: Config, *keys: str) -> None:
    """Raise UserError for keys that the config does not have or that are None."""
    absent = [key for key in ('model', *keys) if cfg.get(key) is None]
    if absent:
        raise UserError(f'the config lacks {", ".join(absent)}')


def require_together(cfg: Config, loader: str) -> None:
    """Raise UserError where only some of a loop's three settings are there."""
    names = [f'{loader}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
    absent = [name for name in names if cfg.get(name) is None]
    if absent and len(absent) < len(names):
        there = [name for name in names if name not in absent]
        raise UserError(
            f'the config has {" and ".join(there)} without {" and ".join(absent)}; '
            f'give all three, or set {" and ".join(there)} to None'
        )


def task_scope(cfg: Config) -> str:
    """'mmdet', 'mmseg' or 'mmpretrain', whichever the config's model belongs to."""
    kind = str(cfg.model.get('type', ''))
    scope = kind.split('.')[0] if '.' in kind else cfg.get('default_scope')
    if scope not in SCOPES:
        raise UserError(
            f'the config has default_scope={cfg.get("default_scope")!r}; this option '
            f'needs one of {", ".join(map(repr, SCOPES))}'
        )
    return scope


def enable_lr_scaling(cfg: Config) -> None:
    """Scale the learning rate from the config's base batch size to the actual one."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config'
        )
    cfg.auto_scale_lr.enable = True


def enable_drawing(cfg: Config, folder: str | None, show: bool, wait: float) -> None:
    """Draw predictions of a test: into a folder, or on the screen for `wait` s."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError(
            '--show and --show-dir need default_hooks.visualization in the config, '
            "such as dict(type='DetVisualizationHook'), "
            "dict(type='SegVisualizationHook') or, in mmpretrain, "
            "dict(type='VisualizationHook')"
        )
    # every image: one mmseg skips by interval
    hook.update(interval=1, **{DRAW[task_scope(cfg)]: True})
    if show:
        hook['show'] = True
        hook['wait_time'] = wait
    if folder and task_scope(cfg) == DETECTION:
        hook['test_out_dir'] = str(Path(folder).resolve())
    elif folder and task_scope(cfg) == CLASSIFICATION:
        hook['out_dir'] = folder
    elif folder:
        cfg.visualizer['save_dir'] = folder


def enable_saving(cfg: Config, out: str) -> None:
    """Save predictions: to a pickle, or of a segmentation to a folder of maps."""
    if task_scope(cfg) == SEGMENTATION:
        for evaluator in _as_list(cfg.test_evaluator):
            evaluator.update(output_dir=out, keep_results=True)
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise UserError(
            f'--out is {out!r}; detection and classification need a name ending in .pkl'
        )
    kind = DUMPS[task_scope(cfg)]
    dump = {'type': kind, 'out_file_path': out}
    cfg.test_evaluator = [*_as_list(cfg.test_evaluator), ConfigDict(dump)]


def enable_tta(cfg: Config) -> None:
    """Test with the augmentation of the config's tta_model and tta_pipeline.

    Without them, detection gets flipping and mmdet's merging by NMS, classification
    flipping and the mean of the scores.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if task_scope(cfg) == CLASSIFICATION:
        cfg.setdefault('tta_model', {'type': 'AverageClsScoreTTA'})
        cfg.setdefault('tta_pipeline', _flipping(dataset.pipeline, {}))
    if task_scope(cfg) == DETECTION:
        nms = {'type': 'nms', 'iou_threshold': 0.5}
        merging = {'nms': nms, 'max_per_img': 100}
        cfg.setdefault('tta_model', {'type': 'DetTTAModel', 'tta_cfg': merging})
        cfg.setdefault('tta_pipeline', _flipping(dataset.pipeline, DETECTED))
    absent = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if not absent and str(cfg.tta_model.get('type')).endswith('DetTTAModel'):
        _refuse_masks(cfg.model, 'model')
    if absent:
        raise UserError(f'--tta needs {" and ".join(absent)} in the config')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _check_keys(cfg: Config, options: Mapping[str, object]) -> None:
    """Raise UserError for an option inside a part that is misspelt.

    New parts are fine; one that is nearly the name of another is not.
    """
    for option in options:
        node = dict(cfg.items())
        for name in option.split('.')[:-1]:
            if not isinstance(node, Mapping):
                break
            close = difflib.get_close_matches(name, [str(k) for k in node], 1, 0.85)
            if name not in node and close:
                raise UserError(
                    f'--cfg-options {option}: the config has no {name}. Did you mean '
                    f'{close[0]}?'
                )
            node = node.get(name)


def _why_not_read(path: str, error: Exception) -> str:
    """Of what mmengine refuses to merge the key path, which only its frames know."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    merging = [f for f in frames if f.f_code.co_name == '_merge_a_into_b']
    if not merging or not isinstance(error, TypeError):
        return f'the config {path} cannot be read: {type(error).__name__}: {error}'
    names = merging[-1].f_locals
    key = '.'.join(str(frame.f_locals.get('k')) for frame in merging)
    given, base = names.get('v'), (names.get('b') or {}).get(names.get('k'))
    return (
        f'{key} is {shown(given)} in the config {path} and {shown(base)} in its base, '
        'which cannot be merged. To put one in the place of the other: '
        f'{key.split(".")[-1]}=dict(_delete_=True, …)'
    )


def _refuse_masks(node: object, key: str) -> None:
    """mmdet merges the boxes of several views, and stops where there are masks."""
    if not isinstance(node, Mapping):
        return
    for name, part in node.items():
        if name in ('mask_head', 'panoptic_head') and part is not None:
            boxes = (
                f', or merge the boxes alone: --lenient-keys --cfg-options '
                f'{key}.{name}=None test_evaluator.metric=bbox'
                if key.endswith('roi_head')
                else ''
            )
            raise UserError(
                f'--tta: {key}.{name} gives masks, and mmdet merges boxes only. Test '
                f'without --tta{boxes}'
            )
        _refuse_masks(part, f'{key}.{name}')


def _as_list(evaluators: dict | list[dict]) -> list[dict]:
    return [evaluators] if isinstance(evaluators, Mapping) else list(evaluators)


def _flipping(pipeline: list[dict], pack: Mapping) -> list[dict]:
    """The pipeline of a test with its last step, packing, done twice: flipped too.

    pack: settings of that step which the merging needs.
    """
    flips = [{'type': 'RandomFlip', 'prob': prob} for prob in (1.0, 0.0)]
    packing = {**pipeline[-1], **pack}
    both = {'type': 'TestTimeAug', 'transforms': [flips, [packing]]}
    return [*pipeline[:-1], ConfigDict(both)]
