"""Whether the heads of a config and its data have the same number of classes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmssm.openmmlab.errors import UserError

# those whose num_classes is the number of the data's classes in every detector and
# segmenter; heads for regions, points or stuff have numbers of their own
HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')
HEADS += ('head', 'data_preprocessor')  # of mmpretrain, which both count
OTHER_TASKS = ('STDCHead',)  # auxiliary heads that tell edges from the rest
# models with one of these parts take the classes as text; trackers have a detector of
# their own, whose classes the data of a track need not be
FREE_VOCABULARY = ('language_model', 'text_encoder')
TRACKED = ('detector', 'reid')
CLASSES, THINGS, STUFF = 'classes', 'things', 'stuff'
# what a head counts, by the name of its argument
COUNTED = dict(num_classes=CLASSES, num_things_classes=THINGS, num_stuff_classes=STUFF)


class Head(NamedTuple):
    """key: of the config, such as model.decode_head.num_classes.  counts: what of."""

    key: str
    number: int
    counts: str


class Named(NamedTuple):
    """The classes of a dataset; of a panoptic one their division, too."""

    key: str
    names: Sequence[str]
    things: int | None = None
    stuff: int | None = None

    def number(self, counts: str) -> int | None:
        """How many a head must have that counts this; None: that cannot be said."""
        if counts == STUFF:
            return self.stuff
        return len(self.names) if self.things is None else self.things


def check_classes(cfg: Config, loaders: Sequence[str]) -> None:
    """Raise UserError for a head with another number of classes than the data.

    loaders: which of 'train', 'val' and 'test' to look at, wrapped datasets included.
    Data that does not name its classes is passed over; classes that are a text, and
    not the name of a file with one name in a line, raise UserError, too.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for loader in loaders:
            if None in (cfg.get(f'{loader}_dataloader'), cfg.get(f'{loader}_cfg')):
                continue
            dataset = cfg[f'{loader}_dataloader']['dataset']
            for named in _classes(dataset, f'{loader}_dataloader.dataset'):
                for what, fix in conflicts(cfg, named):
                    raise UserError(f'{what}. Set one of them: --cfg-options {fix}')


def conflicts(cfg: Mapping, named: Named) -> Iterator[tuple[str, str]]:
    """(what, fix) for every head whose number is not that of the data."""
    first = ', '.join(map(str, named.names[:3]))
    first += ', …' if len(named.names) > 3 else ''
    for head in heads(cfg.get('model')):
        expected = named.number(head.counts)
        if expected is None or head.number == expected:
            continue
        counted = CLASSES if named.things is None else THINGS
        counted = STUFF if head.counts == STUFF else counted
        yield (
            f'{head.key} is {head.number}, but {named.key} has {expected} {counted} '
            f'({first})',
            f'{head.key}={expected}, or metainfo.classes of the dataset; a background '
            'counts in segmentation if it is one of the classes, never in detection',
        )


def heads(node: object, key: str = 'model') -> Iterator[Head]:
    """Every head of a config's model that tells the data's classes apart."""
    if isinstance(node, Mapping):
        if any(part in node for part in FREE_VOCABULARY):
            return
        place = key.split('.')[-1].split('[')[0]
        for name, part in node.items():
            if name in COUNTED and type(part) is int:
                if name != 'num_classes' or (
                    place in HEADS and node.get('type') not in OTHER_TASKS
                ):
                    yield Head(f'{key}.{name}', part, COUNTED[name])
            elif name not in TRACKED:
                yield from heads(part, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for index, part in enumerate(node):
            yield from heads(part, f'{key}[{index}]')


def named_classes(dataset: Mapping, key: str) -> Named | None:
    """The classes of a dataset that wraps no other; None where it does not name them.

    Raises UserError for classes that are a text.
    """
    kind = dataset.get('type')
    with DATASETS.switch_scope_and_registry(None) as registry:
        kind = registry.get(kind) if isinstance(kind, str) else kind
    info = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    names = info.get('classes')
    if isinstance(names, str):
        names = names_in(names, key)
    if not names:
        return None
    if 'Panoptic' not in getattr(kind, '__name__', ''):
        return Named(key, names)
    things, stuff = (len(info.get(f'{k}_classes') or ()) for k in ('thing', 'stuff'))
    # classes of one's own beside the things and stuff of the data set's
    if things + stuff != len(names):
        return None
    return Named(key, names, things, stuff)


def _classes(dataset: Mapping, key: str) -> Iterator[Named]:
    inner = dataset.get('datasets') or ()
    if 'dataset' in dataset:
        yield from _classes(dataset['dataset'], f'{key}.dataset')
    for index, part in enumerate(inner):
        yield from _classes(part, f'{key}.datasets[{index}]')
    if 'dataset' in dataset or inner:
        return
    named = named_classes(dataset, key)
    if named is not None:
        yield named


def names_in(path: str, key: str) -> list[str]:
    """Names of classes in a file, one in a line; UserError where there is no file.

    key: of the dataset in the config.
    """
    if not os.path.isfile(path):
        raise UserError(
            f'{key}.metainfo.classes is the text {path!r}; expected a tuple of '
            f'names, such as ({path!r},) with the comma, or a file of names'
        )
    with open(path, encoding='utf-8') as file:
        return [line for line in file.read().splitlines() if line]
