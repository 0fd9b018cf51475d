"""The datasets of a config: those that read files, and what they parse."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks.report import Report, as_tuple, some
from mmssm.openmmlab.errors import UserError

PREFIXES = ('img', 'img_path', 'seg', 'seg_map_path')  # keys of data_prefix


class Leaf(NamedTuple):
    """A dataset of a config that reads files itself, not a wrapper around others."""

    key: str
    settings: Mapping
    kind: type

    @property
    def bases(self) -> set[str]:
        """Names of its class and of those that it builds upon."""
        return {base.__name__ for base in getattr(self.kind, '__mro__', ())}

    def reads_as(self, name: str) -> bool:
        """Whether its annotations are read by the method of the class of this name."""
        method = getattr(self.kind, 'load_data_list', None)
        return any(
            base.__name__ == name and vars(base).get('load_data_list') is method
            for base in getattr(self.kind, '__mro__', ())
        )


class Parsed(NamedTuple):
    """What a dataset has read.

    entries: all that its annotations hold; kept: what its filter leaves.
    """

    dataset: object
    entries: Sequence[Mapping]
    kept: Sequence[Mapping]


def leaves(settings: Mapping, key: str) -> Iterator[Leaf]:
    """The datasets inside of RepeatDataset, ConcatDataset and their like."""
    inner = settings.get('datasets') or ()
    if 'dataset' in settings:
        yield from leaves(settings['dataset'], f'{key}.dataset')
    elif inner:
        for index, part in enumerate(inner):
            yield from leaves(part, f'{key}.datasets[{index}]')
    else:
        yield Leaf(key, settings, _class_of(settings, key))


def _class_of(settings: Mapping, key: str) -> type:
    from mmengine.registry import DATASETS

    kind = settings.get('type')
    with DATASETS.switch_scope_and_registry(None) as registry, quiet():
        found = registry.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise UserError(
            f'{key}.type is {kind!r}, which is not registered: check the name, '
            'default_scope and custom_imports'
        )
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries print, log and warn of while they read files."""
    level = logging.root.manager.disable
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def class_names(
    report: Report, leaf: Leaf, parsed: Parsed | None = None
) -> tuple[str, ...] | None:
    """What config, dataset or annotation file call the classes; None: not at all."""
    own = (leaf.settings.get('metainfo') or {}).get('classes')
    names = own or getattr(leaf.kind, 'METAINFO', {}).get('classes')
    if not names and parsed is not None:
        names = (getattr(parsed.dataset, 'metainfo', None) or {}).get('classes')
    if isinstance(names, str) and os.path.isfile(names):
        with open(names, encoding='utf-8') as file:
            names = file.read().splitlines()
    if isinstance(names, str):
        report.error(
            f'metainfo.classes is the text {names!r}, not a tuple of names (and there '
            'is no such file)',
            f'write {as_tuple([names])}, with the comma',
        )
        return None
    if not names:
        report.error(
            'the config does not name the classes',
            "metainfo=dict(classes=('first', 'second')) in every dataset",
        )
        return None
    if not isinstance(names, Sequence):
        report.error(
            f'metainfo.classes is {names!r}, not a tuple of names',
            "metainfo=dict(classes=('first', 'second'))",
        )
        return None
    twice = sorted({str(name) for name in names if list(names).count(name) > 1})
    if twice and own:  # ImageNet's own names have two cranes
        report.error(f'class names that occur twice: {some(twice)}', 'rename them')
    return tuple(names)


def parse(report: Report, leaf: Leaf) -> Parsed | None:
    """Let a dataset read its annotations, without its pipeline.

    Reports what it stops at.  None: it stopped, or is no dataset of mmengine's kind.
    """
    from mmengine.dataset import BaseDataset
    from mmengine.registry import DATASETS

    known = isinstance(leaf.kind, type) and issubclass(leaf.kind, BaseDataset)
    settings = dict(leaf.settings)
    if known:
        settings |= dict(lazy_init=True, pipeline=[], serialize_data=False)
    try:
        with quiet():
            dataset = DATASETS.build(settings)
            if known:
                entries = list(dataset.load_data_list())
                dataset.data_list = list(entries)
                return Parsed(dataset, entries, list(dataset.filter_data()))
            if not hasattr(dataset, 'get_data_info'):
                return None
            entries = [dataset.get_data_info(i) for i in range(len(dataset))]
            return Parsed(dataset, entries, entries)
    # Anything may go wrong in what the config names; the user gets to see what.
    except Exception as error:  # noqa: BLE001
        report.error(
            f'{leaf.kind.__name__} cannot read its annotations: '
            f'{type(error).__name__}: {first_lines(error)}',
            _parsing_fix(leaf, error),
        )
        return None


def _parsing_fix(leaf: Leaf, error: Exception) -> str:
    if isinstance(error, ImportError):
        return 'install the package that the message names'
    prefix, missing = leaf.settings.get('data_prefix'), ''.join(map(str, error.args))
    asked = isinstance(error, KeyError) and missing in PREFIXES
    if asked and isinstance(prefix, Mapping) and missing not in prefix:
        had = ', '.join(map(repr, prefix)) or 'no keys'
        return f'data_prefix of {leaf.key} has {had}; expected {missing!r}'
    root = leaf.settings.get('data_root') or ''
    path = os.path.join(root, leaf.settings.get('ann_file') or '')
    return f'look at {path or leaf.key} and the settings of {leaf.key}'


def first_lines(error: BaseException, most: int = 300) -> str:
    """The text of an error, cut to what fits into a line or two."""
    text = ' '.join(str(error).split())
    return text if len(text) <= most else f'{text[:most]} …'
