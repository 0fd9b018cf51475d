"""What only building or running a config finds, told as the place in the config.

An exception of mmengine, mmdet or mmseg names neither key nor value.  The frames of its
traceback do: the deepest object that the config describes is the place, and what the
failing lines read of it are the values to look at.
"""

import inspect
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from mmssm.layers.arguments import shown
from mmssm.openmmlab.engine.config_keys import (
    REGISTRIES,
    TOP,
    all_names,
    candidates,
    nearest,
    typed_parts,
)
from mmssm.openmmlab.errors import UserError

# method of the runner -> key of what it builds, where the config has no type for it
BUILT_BY = {
    'build_train_loop': 'train_cfg',
    'build_val_loop': 'val_cfg',
    'build_test_loop': 'test_cfg',
    'build_optim_wrapper': 'optim_wrapper',
    'build_param_scheduler': 'param_scheduler',
    '_build_param_scheduler': 'param_scheduler',
    'scale_lr': 'auto_scale_lr',
    'build_log_processor': 'log_processor',
    'build_visualizer': 'visualizer',
    'setup_env': 'env_cfg',
    'set_randomness': 'randomness',
    'wrap_model': 'model_wrapper_cfg',
    'register_default_hooks': 'default_hooks',
    'register_custom_hooks': 'custom_hooks',
    'build_logger': 'log_level',
    'load_or_resume': 'load_from',
    '_maybe_compile': 'compile',
}
NOT_REGISTERED = re.compile(r'(\S+) is not in the (\S+?)::(.+?) registry')
NO_ATTRIBUTE = re.compile(r"'ConfigDict' object has no attribute '(\w+)'")
INDICES = re.compile(r'did not receive grad for rank (\d+): ([\d ]+)')
UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")


class Place(NamedTuple):
    """A part of a config, and what its type stands for."""

    key: str
    part: Mapping
    kind: Any = None


@contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Turn what a config makes go wrong into one line, the traceback into a file.

    A process that is not the first of its machine says so itself, for the command lets
    only the first one speak.  Raises UserError; errors of memory stay what they are.
    """
    try:
        yield
    except (UserError, ModuleNotFoundError, torch.OutOfMemoryError, MemoryError):
        raise
    # Anything may go wrong in what a config names; the user gets to see what.
    except Exception as error:
        message = unused_parameters(error) or _explain(error, cfg)
        message += f' (The traceback is in {_keep_traceback(error)})'
        rank = os.environ.get('LOCAL_RANK', '0')
        if rank != '0':
            print(f'process {rank} of this machine: {message}', file=sys.stderr)
        raise UserError(message) from error


def _explain(error: BaseException, cfg: Config) -> str:
    try:
        return explain(error, cfg)
    except Exception:  # noqa: BLE001 (the error to tell is the first one)
        return f'the config: {_one_line(error)}'


def explain(error: BaseException, cfg: Config) -> str:
    """One line: key path, what the error says, the values and what was expected."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        place = find_place(error, cfg)
        text = _one_line(error)
        found = (
            _missing_meta(text, cfg)
            or _not_registered(text, cfg)
            or _misspelt_attribute(text, cfg, place)
            or _no_type(text, place)
        )
        if found:
            return found
        if place is None:
            return f'the config: {text}. Look for the key that this is about'
        name = getattr(place.kind, '__name__', None) or place.part.get('type')
        owner = f' ({name})' if name else ''
        own = re.match(r'(\w+) (is|has) ', text)
        if own and own[1] in place.part:  # as the tables of the package say it
            return f'{place.key}.{text}{owner}'
        hint = _unknown_argument(text, place)
        values = hint or _values(error, place)
        return f'{place.key}{owner}: {text}.{values}{_channels(error, text)}'


def find_place(error: BaseException, cfg: Config) -> Place | None:
    """The deepest part of the config that the traceback passes through."""
    frames = _frames(error)
    testing = any(f.f_code.co_name in ('test', 'build_test_loop') for f in frames)
    other = ('train_', 'val_') if testing else ('test_', 'tta_')
    roots = [root for root in TOP if root in cfg and not root.startswith(other)]
    parts = [
        (key, part) for root in roots for key, part in typed_parts(cfg[root], root)
    ]
    kinds: dict[Any, list[Place]] = {}
    for key, part in parts:
        for kind in candidates(part.get('type'), key.startswith(('model', 'tta'))):
            kinds.setdefault(kind, []).append(Place(key, part, kind))
    for frame in reversed(frames):
        place = _of_frame(frame, parts, kinds, cfg)
        if place is not None:
            return place
    return None


def unused_parameters(error: BaseException) -> str | None:
    """The message of DistributedDataParallel about parameters, with their names."""
    found = INDICES.search(str(error))
    if found is None:
        return None
    for frame in _frames(error):
        model = frame.f_locals.get('self')
        if isinstance(model, DistributedDataParallel):
            named = [n for n, p in model.module.named_parameters() if p.requires_grad]
            names = [named[int(i)] for i in found[2].split() if int(i) < len(named)]
            return without_gradient(names)
    return None


def without_gradient(names: list[str]) -> str:
    """What to do about parameters that the loss does not depend on."""
    listed = ', '.join(names[:8]) + (f', … {len(names)} in all' if names[8:] else '')
    return (
        f'the loss does not depend on {listed}: they get no gradient. If these are '
        'out_norms of the backbone, the neck or head does not use all of its outputs: '
        'name those it uses, such as model.backbone.out_indices=(1, 2, 3) with '
        'neck.in_channels for these and neck.start_level=0; else set '
        'find_unused_parameters=True at the top of the config'
    )


def _keep_traceback(error: BaseException) -> str:
    """Write the traceback to the log of the run, else to a file; its path."""
    text = ''.join(traceback.format_exception(error))
    logger = MMLogger.get_current_instance()
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            record = logger.makeRecord(
                logger.name, logging.ERROR, __file__, 0, text, (), None
            )
            handler.handle(record)
            return handler.baseFilename
    with tempfile.NamedTemporaryFile(
        'w', prefix='mmssm-', suffix='.log', delete=False, encoding='utf-8'
    ) as file:
        file.write(text)
    return file.name


def _frames(error: BaseException) -> list[FrameType]:
    """Of the error and of what it was raised from, outer ones first."""
    frames = []
    while error is not None:
        frames += [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        error = _origin(error)
    return frames


def _origin(error: BaseException) -> BaseException | None:
    """What an error was raised from; `from None` hides it from readers only."""
    hidden = error.__context__ if error.__suppress_context__ else None
    return error.__cause__ or hidden


def _of_frame(
    frame: FrameType, parts: list, kinds: dict[Any, list[Place]], cfg: Config
) -> Place | None:
    names, function = frame.f_locals, frame.f_code.co_name
    given = names.get('cfg')
    if function == 'build_from_cfg' and isinstance(given, Mapping):
        key, part = max(parts, key=lambda p: _overlap(p[1], given), default=('', {}))
        if key and _overlap(part, given) > 0:
            built = candidates(part.get('type'), True)
            return Place(key, part, names.get('obj_cls') or (built or [None])[0])
    owner = names.get('self')
    places = kinds.get(type(owner))
    if places:
        return max(places, key=lambda p: _likeness(p.part, owner, names))
    if isinstance(owner, Runner) or names.get('cls') is Runner:
        loader = names.get('dataloader')
        for key, part in parts if function == 'build_dataloader' else ():
            if key.endswith('_dataloader') and _equal(part, loader):
                return Place(key, part, torch.utils.data.DataLoader)
        key = BUILT_BY.get(function)
        if key in cfg:
            part = cfg[key]
            return Place(key, part if isinstance(part, Mapping) else {key: part})
    return None


def _overlap(part: Mapping, given: Mapping) -> float:
    """How much of what was to be built a part of the config has."""
    same = sum(n in part and _equal(part[n], value) for n, value in given.items())
    return same - 0.01 * len(part)


def _likeness(part: Mapping, owner: object, names: Mapping) -> int:
    """How many settings an object, or its constructor that is running, has."""
    held = {**names, **getattr(owner, '__dict__', {})}
    return sum(_equal(held.get(name), value) for name, value in part.items())


def _equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except (RuntimeError, ValueError, TypeError):
        return False


def _one_line(error: BaseException) -> str:
    """Name and text of the error that came first, on one line."""
    while isinstance(error.__cause__, Exception) and 'worker process' in str(error):
        error = error.__cause__
    text = str(error).strip()
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = f'{error.args[0]}'
        if ' ' not in text:
            text = f'KeyError: there is no {error.args[0]!r}'
    if 'Original Traceback' in text:  # of a process that loads data
        text = text.strip().splitlines()[-1]
    text = re.sub(r' in <[\w.]+ object at 0x\w+>', '', text)
    text = ' '.join(text.split())[:400].rstrip('.')
    plain = isinstance(error, ValueError | AssertionError | KeyError | OSError) and text
    return text if plain else f'{type(error).__name__}: {text}'


def _not_registered(text: str, cfg: Config) -> str | None:
    found = NOT_REGISTERED.search(text)
    if found is None:
        return None
    kind, scope, name = found[1].split(': ')[-1], found[2], found[3]
    known: set[str] = set()
    registry = REGISTRIES.get(name)
    for one in (registry, *registry.children.values()) if registry else ():
        prefix = '' if one.scope in (scope, 'mmengine') else f'{one.scope}.'
        known |= {prefix + key for key in one.module_dict}
    keys = [
        f'{key}.type'
        for root in cfg
        for key, part in typed_parts(cfg[root], root)
        if str(part.get('type')) == kind
    ]
    hint = nearest(kind, known) or nearest(kind.split('.')[-1], known)
    return (
        f'{(keys or ["type"])[0]} is {kind!r}; there is no such {name} in {scope}.'
        f'{hint} A type of another package has its name in front, such as '
        'mmssm.SpatialMamba; one of your own needs custom_imports'
    )


def _missing_meta(text: str, cfg: Config) -> str | None:
    """What a network reads about a picture, and the pipeline does not hand on."""
    found = re.fullmatch(r"KeyError: there is no '(\w+)'", text)
    if found is None or not found[1].endswith(('_shape', 'scale_factor', 'flip')):
        return None
    for root in (root for root in TOP if root in cfg):
        for key, part in typed_parts(cfg[root], root):
            keys = part.get('meta_keys')
            if isinstance(keys, list | tuple) and found[1] not in keys:
                return f'{key}.meta_keys is {shown(keys)}; the model needs {found[1]}'
    return None


def _channels(error: BaseException, text: str) -> str:
    """Of the outputs of the backbone, where channels do not fit."""
    if 'channels' not in text and 'shapes cannot be multiplied' not in text:
        return ''
    for frame in _frames(error):
        backbone = getattr(frame.f_locals.get('self'), 'backbone', None)
        found = getattr(backbone, 'channels', None)
        if found is not None:
            return f'. model.backbone (arch, out_indices) gives {tuple(found)} channels'
    return ''


def _misspelt_attribute(text: str, cfg: Config, place: Place | None) -> str | None:
    found = NO_ATTRIBUTE.search(text)
    if found is None:
        return None
    name = found[1]
    for root in cfg:
        for key, part in typed_parts(cfg[root], root):
            hint = nearest(name, {*part} - {name}, 0.8) if name not in part else ''
            if hint:
                close = hint.removeprefix(' Did you mean ').removesuffix('?')
                return (
                    f'{key}.{close}: nothing reads this key; {name} is missing. Did '
                    f'you mean {name}? It is {shown(part[close])}'
                )
    owner = f'{place.key}: ' if place else ''
    return f'{owner}the config has no {name} where it is needed. Add it'


def _no_type(text: str, place: Place | None) -> str | None:
    if 'must contain the key "type"' not in text:
        return None
    if place is None:
        return 'a part of the config has no type where one is needed'
    return f'{place.key} has no type. It is {shown(dict(place.part))}'


def _unknown_argument(text: str, place: Place) -> str:
    found = UNKNOWN.search(text)
    if found is None or found[1] not in place.part:
        return ''
    try:
        known = {*inspect.signature(place.kind).parameters}
    except (TypeError, ValueError):
        return ''
    value = shown(place.part[found[1]])
    return f' {found[1]} is {value}.{nearest(found[1], known)} Take it out, or'


def _values(error: BaseException, place: Place) -> str:
    """The values that the failing lines read, with what their arguments expect."""
    try:
        parameters = dict(inspect.signature(place.kind).parameters)
    except (TypeError, ValueError):
        parameters = {}
    present = [n for n in place.part if n != 'type']
    odd = [n for n in present if n in parameters and _is_odd(n, place, parameters)]
    lines = _names_read(error)
    read = [n for n in present if n in lines and n not in odd]
    chosen = (odd + read)[:4] or present[:12]
    shown_values = []
    for name in chosen:
        expected = _expected(parameters.get(name))
        shown_values.append(f'{name}={shown(place.part[name], 60)}{expected}')
    absent = sorted((all_names(place.kind) & lines) - {*place.part})[:3]
    shown_values += [f'{name}, which is not given' for name in absent]
    return f' Look at {", ".join(shown_values)}' if shown_values else ''


def _is_odd(name: str, place: Place, parameters: dict) -> bool:
    """The value is of another kind than the default."""
    value, default = place.part[name], parameters[name].default
    if default in (None, inspect.Parameter.empty) or value is None:
        return default is inspect.Parameter.empty and value is None
    number = (int, float)
    if isinstance(default, number) and isinstance(value, number):
        return isinstance(default, bool) != isinstance(value, bool)
    group = (list, tuple)
    if isinstance(default, group) and isinstance(value, group):
        return False
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        return False
    return type(default) is not type(value)


def _expected(parameter: inspect.Parameter | None) -> str:
    if parameter is None:
        return ''
    words = []
    if parameter.annotation is not parameter.empty:
        kind = parameter.annotation
        words.append(
            f'expected {getattr(kind, "__name__", kind)}'.replace('typing.', '')
        )
    if parameter.default is not parameter.empty:
        words.append(f'default {shown(parameter.default, 40)}')
    return f' ({", ".join(words)})' if words else ''


def _names_read(error: BaseException) -> set[str]:
    """Identifiers in the lines of the last frames."""
    lines = []
    while error is not None:
        lines += [f.line or '' for f in traceback.extract_tb(error.__traceback__)[-4:]]
        error = _origin(error)
    return set(re.findall(r'[A-Za-z_]\w*', ' '.join(lines)))
