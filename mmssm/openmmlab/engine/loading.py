"""Reading checkpoints of mmengine without running code, and whether they fit."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmssm.openmmlab.errors import UserError
from mmssm.weights import KeyReport, compare, detect_family, load_file, unwrap
from mmssm.weights.files import DAMAGED


def read_checkpoint(
    filename: str | Path, map_location: str | torch.device | None = 'cpu'
) -> dict:
    """Read a local checkpoint of mmengine without running any code it may hold.

    Raises UserError for a file that is missing, not complete, not a checkpoint, or
    that holds objects of other classes than mmengine's checkpoints do.
    """
    check_exists(str(filename))
    path = Path(filename).expanduser()
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_why_refused(path, str(error))) from error
    except DAMAGED as error:
        if 'CUDA' in str(error):  # the GPU has no room for it
            raise
        raise UserError(_not_complete(path)) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f'{filename} holds a {type(content).__name__}; expected a checkpoint'
        )
    return content


def use_safe_loading() -> None:
    """Make mmengine read every local checkpoint by `read_checkpoint`.

    torch.load refuses what is not tensors and plain containers.  A checkpoint of
    mmengine also holds its log, the message hub: history buffers, which name their own
    methods, with NumPy arrays and numbers.  Exactly these are allowed, under the names
    of NumPy 1 and 2.
    """
    numpy_core = np._core if hasattr(np, '_core') else np.core
    allowed = [HistoryBuffer, np.ndarray, np.dtype]
    allowed += {type(np.dtype(kind)) for kind in '?bhilBHILefd'}
    for function in (numpy_core.multiarray._reconstruct, numpy_core.multiarray.scalar):
        for package in ('numpy._core', 'numpy.core'):
            allowed.append(_named(f'{package}.multiarray', function.__name__, function))
    allowed.append(_named('builtins', 'getattr', _history_method))
    torch.serialization.add_safe_globals(allowed)
    CheckpointLoader.register_scheme('', load_from_local, force=True)


# what the commands offer for a checkpoint that fits in part
LENIENT = '--lenient-keys'
START_FROM = '--cfg-options load_from=FILE, without --resume,'


class CheckpointFitHook(Hook):
    """Compares a checkpoint with the model before mmengine loads it.

    mmengine itself loads what fits and only writes the rest to the log.

    strict: differing keys raise UserError; else they are logged, and only a
    checkpoint that fits nowhere raises.  advice: how to load what fits all the same.
    """

    priority = 'LOWEST'

    def __init__(self, strict: bool = True, advice: str = LENIENT) -> None:
        self.strict = strict
        self.advice = advice

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if isinstance(runner.model, FullyShardedDataParallel):
            return  # its parameters are shards without the names of the checkpoint
        refuse_official(checkpoint)
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        weights = {
            name.removeprefix('module.'): value
            for name, value in checkpoint.get('state_dict', checkpoint).items()
            if isinstance(value, torch.Tensor)
        }
        report = fit_of(weights, model)
        if not any(report):
            return
        fitting = len(weights) - len(report.unexpected) - len(report.mismatched)
        message = (
            f'{runner.cfg.load_from} does not fit the {type(model).__name__} of the '
            f'config; {fitting} of {len(model.state_dict())} entries fit:'
            f'{_listed(report)}'
        )
        if self.strict or fitting <= 0:
            raise UserError(
                f'{message}\nUse the config that the checkpoint was trained with'
                + (f', or {self.advice} to load what fits' if fitting > 0 else '')
            )
        runner.logger.warning(message)


def fit_of(weights: Mapping[str, torch.Tensor], model: nn.Module) -> KeyReport:
    """`weights.compare`, but for the counters of batch norms, which may be missing."""
    report = compare(weights, model)
    kept = [n for n in report.missing if not n.endswith('num_batches_tracked')]
    return report._replace(missing=kept)


def refuse_official(checkpoint: Mapping[str, object]) -> None:
    """Raise UserError for a checkpoint under the names of the official codes."""
    try:
        family = detect_family(unwrap(checkpoint))
    except ValueError:  # no weights at all; the comparison of keys says so
        family = None
    if family is not None:
        raise UserError(
            f'this is an official {family} checkpoint, whose names are not ours; '
            'convert it first: python tools/model_converters/official_to_mmssm.py '
            'FILE OUTPUT'
        )


def _named(module: str, name: str, function: Callable) -> Callable:
    """The function under the name by which a pickle asks for it."""

    def called(*args: object) -> object:
        return function(*args)

    called.__module__ = module
    called.__name__ = called.__qualname__ = name
    return called


def _history_method(owner: object, name: str) -> Callable:
    """What a pickled history buffer needs of getattr, and nothing else of it."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'unsupported: getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def check_exists(checkpoint: str) -> None:
    """Raise UserError when a local checkpoint, or the folder of one, is not there."""
    if '://' not in checkpoint and not Path(checkpoint).expanduser().exists():
        raise UserError(f'there is no checkpoint at {checkpoint}')


def load_from_local(filename: str, map_location: str | torch.device | None) -> dict:
    return read_checkpoint(filename, map_location)


def _why_refused(path: Path, reason: str) -> str:
    named = re.search(r'(?:GLOBAL|class|function|global) ([\w.]+\.\w+)', reason)
    if 'nsupported' not in reason or named is None:
        return _not_complete(path)
    try:
        refuse_official(load_file(path))
    except (UserError, ValueError) as error:
        return f'{path}: {error}'
    return (
        f'{path} holds objects of the class {named[1]}, which could run code when read;'
        ' it is refused. Keep the weights alone: torch.save(dict(state_dict=…), FILE)'
    )


def _not_complete(path: Path) -> str:
    return (
        f'{path} is not a complete checkpoint (its size is {path.stat().st_size} '
        'bytes): it was cut short, or is something else. Compare it with its source'
    )


def _listed(report: KeyReport, most: int = 20) -> str:
    text = ''
    for title, names in zip(report._fields, report, strict=True):
        shown = ''.join(f'\n    {name}' for name in names[:most])
        rest = f'\n    … {len(names) - most} more' if len(names) > most else ''
        text += f'\n  {title} ({len(names)}):{shown}{rest}' if names else ''
    return text
