"""Keys of a config that nothing reads, found before anything is built.

Every dict with a `type` is compared with the signature of what its type stands for.
Where a constructor passes its **kwargs on, those of its bases count, too; where that
cannot be told from its source, every key is accepted.
"""

import ast
import difflib
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from os import PathLike
from pathlib import Path

import mmengine.registry
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmssm.layers.arguments import Given, Rule, integer, number, optional, shown
from mmssm.openmmlab.errors import UserError

REGISTRIES = {
    r.name: r
    for r in vars(mmengine.registry).values()
    if isinstance(r, Registry) and r.parent is None
}
# read by what builds, not by what is built
BUILDERS = {'type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based'}
BUILDERS |= {'constructor', 'paramwise_cfg', 'by_epoch', 'name', 'requires_grad'}
LOOPS = ('train', 'val', 'test')
LOADER = {'dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn'}
LOADER |= {'num_batch_per_epoch', 'persistent_workers', 'prefetch_factor'}
LOADER |= {*inspect.signature(DataLoader).parameters}
# of the runner, and of the tools of mmengine, mmdet and mmseg
TOP = {*inspect.signature(Runner).parameters, 'runner_type', 'tta_model'}
TOP |= {f'{loop}_pipeline' for loop in (*LOOPS, 'tta')}
TOP |= {
    'auto_scale_lr',
    'find_unused_parameters',
    'compile',
    'sync_bn',
    'custom_imports',
}
# root -> kinds that mmengine takes
KINDS: dict[str, tuple[type, ...]] = {
    'model': (Mapping,),
    **dict.fromkeys((f'{loop}_dataloader' for loop in LOOPS), (Mapping,)),
    **dict.fromkeys((f'{loop}_cfg' for loop in LOOPS), (Mapping,)),
    **dict.fromkeys((f'{loop}_evaluator' for loop in LOOPS), (Mapping, list, tuple)),
    'optim_wrapper': (Mapping,),
    'param_scheduler': (Mapping, list, tuple),
    'auto_scale_lr': (Mapping,),
    'default_hooks': (Mapping,),
    'custom_hooks': (list, tuple),
    'visualizer': (Mapping,),
    'log_processor': (Mapping,),
    'env_cfg': (Mapping,),
    'randomness': (Mapping,),
    'strategy': (Mapping,),
    'model_wrapper_cfg': (Mapping,),
    'tta_model': (Mapping,),
}
NAMES = {Mapping: 'dict', list: 'list', tuple: 'tuple'}
DEFAULT_TYPES = {
    'optim_wrapper': 'OptimWrapper',
    'log_processor': 'LogProcessor',
    'val_cfg': 'ValLoop',
    'test_cfg': 'TestLoop',
}
# roots without a type -> what they are, and their keys
FIXED: dict[str, tuple[str, set[str]]] = {
    **{f'{loop}_dataloader': ('a dataloader', LOADER) for loop in LOOPS},
    'env_cfg': (
        'env_cfg',
        {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    ),
    'randomness': ('randomness', {'seed', 'diff_rank_seed', 'deterministic'}),
    'auto_scale_lr': ('auto_scale_lr', {'enable', 'base_batch_size'}),
}
# key paths of what is built by its type, alone and in lists
BUILT = re.compile(
    r'.*_dataloader(\.dataset)+|.*_dataloader\.(batch_)?sampler|.*_evaluator|visualizer'
    r'|param_scheduler|optim_wrapper\.optimizer|default_hooks\.\w+|(tta_)?model'
    r'|model\.(backbone|neck|data_preprocessor|(\w+_)?head)'
)
WRAPS = {'dataset', 'datasets'}
LISTED = ('pipeline', 'vis_backends', 'datasets')
# below these a config has names of its user's own, or of another library
FREE = {'metainfo', 'init_cfg', 'backend_args', 'detector', 'diffusion_cfg'}
HOSTS = ('mmdet', 'mmseg', 'mmpretrain')
PACKAGES = {'mmengine', 'mmcv', 'mmssm', *HOSTS}


def _text(value: object, given: Given) -> str | None:
    return None if isinstance(value, str | PathLike) else 'text'


def _texts(value: object, given: Given) -> str | None:
    if isinstance(value, str):  # of mmpretrain, where a folder has no name
        return None
    each = value.values() if isinstance(value, Mapping) else [0]
    return None if all(v is None or _text(v, {}) is None for v in each) else 'a dict'


def _mapping(value: object, given: Given) -> str | None:
    return None if isinstance(value, Mapping) else 'a dict'


LOADER_VALUES = {'batch_size': integer(), 'num_workers': integer(0, 1024)}
DATASET_VALUES = {
    'data_root': optional(_text),
    'data_prefix': optional(_texts),
    'metainfo': optional(_mapping),
}
EVALUATOR_VALUES = {'ann_file': optional(_text)}
CLIP_VALUES = {'max_norm': number(0), 'clip_value': number(0)}
CLIPPING = {'type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach'}
CLIPPING |= {'clip_value'}
HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler')
HOOKS += ('checkpoint', 'visualization')


def check_config(cfg: Config) -> None:
    """Raise UserError for a key that nothing reads, and for a part of another kind.

    Names of a user's own at the top of a config are fine, unless they are nearly one
    that the runner reads.
    """
    _check_top(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for root in KINDS:
            if cfg.get(root) is not None:
                _check_root(cfg, root)


def typed_parts(node: object, key: str = '') -> Iterator[tuple[str, Mapping]]:
    """(key path, dict) of each dict in a part of a config, outer ones first."""
    if isinstance(node, Mapping):
        yield key, node
        for name, part in node.items():
            yield from typed_parts(part, f'{key}.{name}' if key else str(name))
    elif isinstance(node, list | tuple):
        for index, part in enumerate(node):
            yield from typed_parts(part, f'{key}[{index}]')


def candidates(kind: object, foreign: bool = False) -> list[Callable]:
    """What a type may stand for, in every registry of the default scope.

    foreign: in the scopes of mmdet and mmseg, too, for parts of a network of theirs.
    """
    if not isinstance(kind, str) or not kind:
        return [kind] if callable(kind) else []
    scope = DefaultScope.get_current_instance()
    home = scope.scope_name if scope else 'mmengine'
    names = [kind]
    if foreign and '.' not in kind and home != 'mmpretrain':
        names += [f'{other}.{kind}' for other in ('mmdet', 'mmseg')]
    found = [_find(name, home) for name in names]
    return [one for group in found for one in group]


@functools.cache
def _find(kind: str, scope: str) -> list[Callable]:
    found = []
    with suppress(ImportError):
        import_module(f'{scope}.registry')
    for registry in REGISTRIES.values():
        one = registry.children.get(scope, registry).get(kind)
        if callable(one) and one not in found:
            found.append(one)
    return found


def accepted(built: Callable) -> set[str] | None:
    """Names of the arguments of a class or function; None: any may be one."""
    if not inspect.isclass(built):
        return _of_function(built)
    if issubclass(built, CheckpointHook):  # hands what is left to save_checkpoint
        saving = _of_function(Runner.save_checkpoint) or set()
        return saving | all_names(built)
    return _of_class(built)


def nearest(name: str, known: Sequence[str] | set[str], cutoff: float = 0.6) -> str:
    """' Did you mean …?', or nothing."""
    close = difflib.get_close_matches(str(name), sorted(map(str, known)), 1, cutoff)
    return f' Did you mean {close[0]}?' if close else ''


def _check_top(cfg: Config) -> None:
    for name in cfg:
        close = difflib.get_close_matches(name, TOP, 1, 0.87)
        if name in TOP or name.startswith('_') or not close:
            continue
        if name.endswith(f'_{close[0]}') or name.startswith(f'{close[0]}_'):
            continue  # of one's own, such as small_train_pipeline
        raise UserError(
            f'{name}: nothing reads this key of the config. Did you mean {close[0]}? '
            f'It is {shown(cfg[name])}'
        )


def _check_root(cfg: Config, root: str) -> None:
    part = cfg[root]
    if not isinstance(part, KINDS[root]):
        kinds = ' or '.join(NAMES[kind] for kind in KINDS[root])
        raise UserError(f'{root} is {shown(part)}; expected a {kinds}')
    if isinstance(part, Mapping) and 'type' not in part and root in DEFAULT_TYPES:
        part = {'type': DEFAULT_TYPES[root], **part}
    if root == 'train_cfg' and 'type' not in part:
        _check_loop(part)
    if root == 'model' and cfg.get('data_preprocessor') is None:
        _require_accepted(part, root, 'data_preprocessor')
    if root == 'optim_wrapper' and part.get('clip_grad') is not None:
        _check_clipping(part['clip_grad'], f'{root}.clip_grad')
    if root == 'default_hooks':
        _check_hooks(part)
    if root in FIXED:
        owner, known = FIXED[root]
        _refuse(part, root, owner, known)
    if root.endswith('_dataloader'):
        _require(part, root, 'dataset')
        _check_values(part, root, LOADER_VALUES)
    if isinstance(part, list | tuple):
        for index, entry in enumerate(part):
            _require_type(entry, f'{root}[{index}]')
    nodes = dict(typed_parts(part, root))
    for key, node in nodes.items():
        _check_entries(key, node)
        _check_node(key, nodes)


def _check_clipping(part: object, key: str) -> None:
    if not isinstance(part, Mapping) or not {*part} & {*CLIP_VALUES}:
        raise UserError(f'{key} is {shown(part)}; expected a dict such as max_norm=1.0')
    _refuse(part, key, 'clip_grad', CLIPPING)
    _check_values(part, key, CLIP_VALUES)


def _check_hooks(part: Mapping) -> None:
    for name, hook in part.items():
        close = difflib.get_close_matches(name, HOOKS, 1, 0.8)
        if close and name not in HOOKS:
            raise UserError(
                f'default_hooks.{name}: no such hook is built by default. Did you mean '
                f'{close[0]}? Others go into custom_hooks. It is {shown(hook)}'
            )


def _check_entries(key: str, node: Mapping) -> None:
    """Parts of this one that are built have a type; files of a dataset are texts."""
    for name, part in node.items():
        here = f'{key}.{name}'
        if name == 'meta_keys' and not _is_listed_text(part):
            raise UserError(f'{here} is {shown(part)}; expected a tuple of names')
        if name == 'nms' and isinstance(part, str | float | list | tuple):
            raise UserError(f"{here} is {shown(part)}; expected dict(type='nms', …)")
        if isinstance(part, list | tuple) and name in LISTED:
            for index, entry in enumerate(part):
                _require_type(entry, f'{here}[{index}]')
        elif BUILT.fullmatch(here):
            listed = isinstance(part, list | tuple)
            for index, entry in enumerate(part) if listed else ():
                _require_type(entry, f'{here}[{index}]')
            if not listed:
                _require_type(part, here)
    if BUILT.fullmatch(key):
        _require_type(node, key)
    if '_evaluator' in key:
        _check_values(node, key, EVALUATOR_VALUES)
    if '_dataloader.dataset' in key and 'type' in node and not {*node} & WRAPS:
        _check_values(node, key, DATASET_VALUES)
        _check_prefixes(key, node)
        if BUILT.fullmatch(key):
            _require_accepted(node, key, 'pipeline')


def _is_listed_text(part: object) -> bool:
    listed = isinstance(part, list | tuple)
    return listed and all(isinstance(name, str) for name in part)


def _check_prefixes(key: str, node: Mapping) -> None:
    """Folders of a dataset that are nearly called as its class calls them."""
    known: set[str] = set()
    for built in candidates(node['type']):
        for base in built.__mro__[:-1] if inspect.isclass(built) else ():
            init = vars(base).get('__init__', object.__init__)
            default = inspect.signature(init).parameters.get('data_prefix')
            if default is not None and isinstance(default.default, Mapping):
                known |= {*default.default}
    folders = node.get('data_prefix')
    for name in folders if isinstance(folders, Mapping) else ():
        close = difflib.get_close_matches(name, known - {name}, 1, 0.7)
        if close and name not in known and name not in _words():
            raise UserError(
                f'{key}.data_prefix.{name}: nothing reads this key (it is '
                f'{shown(node["data_prefix"][name])} here). Did you mean {close[0]}?'
            )


def _require_type(part: object, key: str) -> None:
    if isinstance(part, Mapping):
        _require(part, key, 'type')
    elif isinstance(part, str | int | float | list | tuple):
        raise UserError(f'{key} is {shown(part)}; expected a dict with a type')


def _require_accepted(part: Mapping, key: str, name: str) -> None:
    """Require what the class has an argument for, and what it cannot do without."""
    for built in candidates(part.get('type')):
        package = built.__module__.partition('.')[0]
        if package in HOSTS and name in (accepted(built) or ()):
            _require(part, key, name)


def _check_loop(part: Mapping) -> None:
    """A loop without a type counts iterations, unless by_epoch says otherwise."""
    if 'max_epochs' in part and not part.get('by_epoch'):
        raise UserError(
            f'train_cfg has max_epochs={shown(part["max_epochs"])} without a type. '
            "Expected type='EpochBasedTrainLoop', or by_epoch=True"
        )


def _check_values(part: Mapping, key: str, rules: Mapping[str, Rule]) -> None:
    for name, rule in rules.items():
        expected = name in part and rule(part[name], part)
        if expected:
            raise UserError(f'{key}.{name} is {shown(part[name])}; expected {expected}')


def _check_node(key: str, nodes: Mapping[str, Mapping]) -> None:
    node = nodes[key]
    if 'type' not in node:
        if key.startswith('model'):
            _refuse_unmentioned(key, node, nodes)
        return
    kind = node['type']
    if not kind or not (isinstance(kind, str) or callable(kind)):
        raise UserError(f'{key}.type is {kind!r}; expected a name or a class')
    if key == 'optim_wrapper.optimizer' and not candidates(kind):
        known = REGISTRIES['optimizer'].module_dict
        raise UserError(
            f'{key}.type is {kind!r}; there is no such optimizer.'
            f'{nearest(kind, {*known})}'
        )
    sets = []
    for built in candidates(kind, foreign=key.startswith(('model', 'tta_model'))):
        module = getattr(built, '__module__', None) or ''
        # builders of these take options of their own, which stand in no signature
        own = module.startswith(('torch.nn', 'mmcv.')) and 'transforms' not in module
        known = None if own or key.endswith('init_cfg') else accepted(built)
        if known is None:
            near = None if key.startswith('model') else all_names(built)
            _refuse_unmentioned(key, node, nodes, near)
            return
        sets.append(known)
    if not sets:
        return  # the registry names what it does not find
    unknown = [n for n in node if not any(n in s for s in sets) and n not in BUILDERS]
    unknown = [n for n in unknown if not _read_around(n, key, nodes)]
    if unknown:
        best = max(sets, key=lambda names: len(names & {*node}))
        name = kind if isinstance(kind, str) else getattr(kind, '__name__', kind)
        _raise_unknown(key, name, node, unknown[0], sorted(best))


def _refuse_unmentioned(
    key: str,
    node: Mapping,
    nodes: Mapping[str, Mapping],
    near: set[str] | None = None,
) -> None:
    """Refuse a name that stands nowhere in the packages that read this config.

    near: instead, a name that is nearly one of these.
    """
    if any(part in FREE for part in re.split(r'[.\[]', key)):
        return
    packages = {
        str(getattr(built, '__module__', '')).partition('.')[0]
        for part in nodes.values()
        for built in candidates(part.get('type'), foreign=True)
    }
    if packages - {'torch', *PACKAGES}:
        return  # code that somebody else wrote reads it, too
    for name in map(str, node):
        if near is not None:
            close = difflib.get_close_matches(name, near, 1, 0.85)
            odd = close and name not in near and name not in BUILDERS
        else:
            odd = name.isidentifier() and name not in _words()
        if odd:
            raise UserError(
                f'{key}.{name}: no code of {", ".join(sorted(packages & PACKAGES))} '
                f'reads this key (it is {shown(node[name])} here).'
                f'{nearest(name, _words() if near is None else near, 0.8)}'
            )


@functools.cache
def _words() -> set[str]:
    """Every name in the source of the packages that read configs."""
    found: set[str] = set()
    for package in PACKAGES:
        module = sys.modules.get(package)
        for folder in getattr(module, '__path__', ()):
            for path in Path(folder).rglob('*.py'):
                if '.mim' not in path.parts:
                    text = path.read_text(encoding='utf-8', errors='ignore')
                    found.update(re.findall(r'[A-Za-z_]\w*', text))
    return found


def _read_around(name: str, key: str, nodes: Mapping[str, Mapping]) -> bool:
    """A part around this one may take the key out before it builds this one."""
    for around, part in nodes.items():
        if key.startswith((f'{around}.', f'{around}[')):
            for built in candidates(part.get('type'), foreign=True):
                if re.search(rf'\b{re.escape(str(name))}\b', _source(built)):
                    return True
    return False


@functools.cache
def _source(built: Callable) -> str:
    """Of a function, or of a class and its bases."""
    parts = built.__mro__[:-1] if inspect.isclass(built) else [built]
    texts = []
    for part in parts:
        if not (part.__module__ or '').startswith('torch.'):
            with suppress(OSError, TypeError):
                texts.append(inspect.getsource(part))
    return '\n'.join(texts)


def _refuse(
    part: Mapping, key: str, owner: str, known: Sequence[str] | set[str]
) -> None:
    unknown = [name for name in part if name not in known and name not in BUILDERS]
    if unknown:
        _raise_unknown(key, owner, part, unknown[0], sorted(known))


def _raise_unknown(
    key: str, owner: object, part: Mapping, name: str, known: list[str]
) -> None:
    raise UserError(
        f'{key}.{name}: {owner} has no argument {name!r} (it is {shown(part[name])} '
        f'here).{nearest(name, known)} It takes {", ".join(known)}'
    )


def _require(part: Mapping, key: str, name: str) -> None:
    if name not in part:
        raise UserError(
            f'{key} has no {name}.{_instead(part, name)} It is {shown(dict(part))}'
        )


def _instead(part: Mapping, name: str) -> str:
    close = difflib.get_close_matches(name, map(str, part), 1)
    return f' Did you mean {name} by {close[0]}?' if close else ''


def all_names(built: Callable) -> set[str]:
    """Of the arguments of a function, or of a class and its bases."""
    if not inspect.isclass(built):
        return (_names(built) or (set(), None))[0]
    return {name for base in built.__mro__[:-1] for name in _own(base)}


def _own(built: type) -> set[str]:
    init = vars(built).get('__init__')
    names = _names(init) if init else None
    return names[0] if names else set()


@functools.cache
def _of_class(built: type) -> set[str] | None:
    names: set[str] = set()
    after = None
    for base in built.__mro__[:-1]:
        init = vars(base).get('__init__')
        if after is not None:  # super(Class, self) goes on behind the class
            after = None if base.__name__ == after else after
            continue
        if init is None:
            continue
        own = _names(init)
        if own is None:
            return None
        known, extra = own
        names |= known
        if extra is None:
            return names or None
        handed = _handed_on(init, extra)
        if handed is None:
            return None
        names |= handed[0]
        after = None if handed[1] == base.__name__ else handed[1]
    return names or None


@functools.cache
def _of_function(function: Callable) -> set[str] | None:
    own = _names(function)
    return None if own is None or own[1] is not None else own[0]


def _names(function: Callable) -> tuple[set[str], str | None] | None:
    """Names of the arguments, and of **kwargs; None where nobody can tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    extra = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    known = {p.name for p in parameters if p.kind in named} - {'self'}
    return known, (extra or [None])[0]


def _handed_on(init: Callable, extra: str) -> tuple[set[str], str | None] | None:
    """Names that a constructor takes out of its **kwargs before it passes them on.

    Also the class that super() names, if any.  None where it does anything else.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):
        return None
    read: set[str] = set()
    behind = None
    understood: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_super_init(node.func):
            starred = [k.value for k in node.keywords if k.arg is None]
            understood |= {id(v) for v in starred}
            if node.func.value.args and isinstance(node.func.value.args[0], ast.Name):
                behind = node.func.value.args[0].id
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method, owner = node.func.attr, node.func.value
            key = node.args[0] if node.args else None
            if method in ('pop', 'get', 'setdefault') and isinstance(key, ast.Constant):
                understood.add(id(owner))
                if isinstance(owner, ast.Name) and owner.id == extra:
                    read.add(str(key.value))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            understood.add(id(node.value))
            if isinstance(node.value, ast.Name) and node.value.id == extra:
                read.add(str(node.slice.value))
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
            understood |= {id(c) for c in node.comparators}
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == extra]
    passed = uses and all(id(use) in understood for use in uses)
    return (read, behind) if passed else None  # what it never uses, it ignores


def _is_super_init(function: ast.expr) -> bool:
    """super().__init__ or super(Class, self).__init__"""
    return (
        isinstance(function, ast.Attribute)
        and function.attr == '__init__'
        and isinstance(function.value, ast.Call)
        and isinstance(function.value.func, ast.Name)
        and function.value.func.id == 'super'
    )
