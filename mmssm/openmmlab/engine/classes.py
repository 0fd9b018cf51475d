"""Whether the heads of a config and its data have the same number of classes."""

import os
from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmssm.openmmlab.errors import UserError

# those whose num_classes is the number of the data's classes in every detector and
# segmenter; heads for regions, points or stuff have numbers of their own
HEADS = ('bbox_head', 'mask_head', 'decode_head')


def check_classes(cfg: Config, loaders: Sequence[str]) -> None:
    """Raise UserError for a head with another number of classes than the data.

    loaders: which of 'train', 'val' and 'test' to look at, wrapped datasets included.
    Data that does not name its classes is passed over; classes that are a text, and
    not the name of a file with one name in a line, raise UserError, too.
    """
    heads = list(_heads(cfg.get('model'), 'model'))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for loader in loaders:
            if None in (cfg.get(f'{loader}_dataloader'), cfg.get(f'{loader}_cfg')):
                continue
            dataset = cfg[f'{loader}_dataloader']['dataset']
            for key, names in _classes(dataset, f'{loader}_dataloader.dataset'):
                for head, number in heads:
                    if number != len(names):
                        raise UserError(_differ(head, number, key, names))


def _differ(head: str, number: int, key: str, names: Sequence[str]) -> str:
    first = ', '.join(map(str, names[:3])) + (', …' if len(names) > 3 else '')
    return (
        f'{head} is {number}, but {key} has {len(names)} classes ({first}). Set one of '
        f'them: --cfg-options {head}={len(names)}, or metainfo.classes of the dataset; '
        'a background counts in segmentation if it is one of the classes, and never in '
        'detection'
    )


def _heads(node: object, key: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, Mapping):
        for name, part in node.items():
            if name == 'num_classes' and isinstance(part, int):
                if key.split('.')[-1].split('[')[0] in HEADS:
                    yield f'{key}.{name}', part
            else:
                yield from _heads(part, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for index, part in enumerate(node):
            yield from _heads(part, f'{key}[{index}]')


def _classes(dataset: Mapping, key: str) -> Iterator[tuple[str, Sequence[str]]]:
    inner = dataset.get('datasets') or ()
    if 'dataset' in dataset:
        yield from _classes(dataset['dataset'], f'{key}.dataset')
    for index, part in enumerate(inner):
        yield from _classes(part, f'{key}.datasets[{index}]')
    if 'dataset' in dataset or inner:
        return
    names = (dataset.get('metainfo') or {}).get('classes')
    if names is None:
        kind = dataset.get('type')
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind) if isinstance(kind, str) else kind
        if 'Panoptic' in getattr(kind, '__name__', ''):
            return  # its classes are things and stuff, its heads know one of them
        names = getattr(kind, 'METAINFO', {}).get('classes')
    if isinstance(names, str):
        if not os.path.isfile(names):
            raise UserError(
                f'{key}.metainfo.classes is the text {names!r}; expected a tuple of '
                f'names, such as ({names!r},) with the comma, or a file of names'
            )
        with open(names, encoding='utf-8') as file:
            names = [line for line in file.read().splitlines() if line]
    if names:
        yield key, names
