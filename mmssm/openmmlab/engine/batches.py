"""A batch of mmdet or mmseg as plain containers, which a file can hold, and back.

A file with objects of classes would run their code when it is read.  Here a structure
is a dict with its kind, and only the kinds of the two tables are made again.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement

KIND = '__kind__'
ELEMENTS = {
    'InstanceData': 'mmengine.structures',
    'LabelData': 'mmengine.structures',
    'PixelData': 'mmengine.structures',
    'DetDataSample': 'mmdet.structures',
    'TrackDataSample': 'mmdet.structures',
    'SegDataSample': 'mmseg.structures',
    'BaseDataElement': 'mmengine.structures',
}
MASKS = ('BitmapMasks', 'PolygonMasks')
BOXES = ('HorizontalBoxes',)


def as_plain(value: Any) -> Any:
    """Tensors, numbers, texts and containers in place of the structures of a batch.

    Raises TypeError that names a class it does not know.
    """
    name = type(value).__name__
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {KIND: 'array', 'content': torch.from_numpy(value.copy())}
    if isinstance(value, Mapping):
        return {str(key): as_plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(as_plain(part) for part in value)
    if isinstance(value, (list, set)):
        return [as_plain(part) for part in value]
    if isinstance(value, BaseDataElement):
        return {
            KIND: name if name in ELEMENTS else _base(value),
            'metainfo': as_plain(dict(value.metainfo_items())),
            'data': as_plain(dict(value.items())),
        }
    if name in MASKS:
        size = {'height': value.height, 'width': value.width}
        return {KIND: name, 'masks': as_plain(value.masks), **size}
    if name in BOXES:
        return {KIND: name, 'data': as_plain(value.tensor)}
    raise TypeError(f'a batch with {type(value).__module__}.{name}')


def from_plain(value: Any) -> Any:
    """What `as_plain` was given; kinds of no table stay dicts."""
    if isinstance(value, tuple):
        return tuple(from_plain(part) for part in value)
    if isinstance(value, list):
        return [from_plain(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    parts = {key: from_plain(part) for key, part in value.items() if key != KIND}
    make = _makers().get(value.get(KIND))
    return parts if make is None else make(**parts)


def picture_paths(batch: object) -> list[str]:
    """Paths of the pictures in a batch, of all its views, each once."""
    return list(dict.fromkeys(_paths(batch)))


def _paths(value: object) -> Iterator[str]:
    if isinstance(value, BaseDataElement):
        path = value.metainfo.get('img_path')
        yield from [path] if isinstance(path, str) else path or []
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _paths(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _paths(part)


def _base(value: BaseDataElement) -> str:
    """The nearest class of the table that a structure inherits from."""
    return next(k.__name__ for k in type(value).__mro__ if k.__name__ in ELEMENTS)


def _makers() -> dict[str, Callable[..., Any]]:
    makers: dict[str, Callable[..., Any]] = {
        name: _element(name, module) for name, module in ELEMENTS.items()
    }
    makers['array'] = lambda content: content.numpy()
    for name in (*MASKS, *BOXES):
        makers[name] = _of_mmdet(name)
    return makers


def _element(name: str, module: str) -> Callable[..., BaseDataElement]:
    def make(metainfo: dict, data: dict) -> BaseDataElement:
        return getattr(import_module(module), name)(metainfo=metainfo, **data)

    return make


def _of_mmdet(name: str) -> Callable[..., Any]:
    def make(**parts: Any) -> Any:
        structures = import_module('mmdet.structures')
        place = structures.mask if name in MASKS else structures.bbox
        return getattr(place, name)(**parts)

    return make
