"""Reading a file in COCO's format, so that nothing in it is left to surprise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks.boxes import is_number
from mmssm.openmmlab.data_checks.report import Report, some

PARTS = ('images', 'annotations', 'categories')
FORM = (
    'the COCO format is {"images": [...], "annotations": [...], "categories": [...]}; '
    'captions and result files have another form'
)


class Field(NamedTuple):
    """What an entry of a part must have.

    fits: whether a value will do.  expected: that in words.
    """

    name: str
    fits: Callable[[object], bool]
    expected: str


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_side(value: object) -> bool:
    return is_number(value) and math.isfinite(value) and value > 0


def anything(value: object) -> bool:
    return True


ID = 'an integer'
IMAGES = (
    Field('id', _is_id, ID),
    Field('file_name', _is_text, "the picture's path"),
    Field('width', _is_side, 'a number above 0'),
    Field('height', _is_side, 'a number above 0'),
)
OBJECTS = (
    Field('id', _is_id, ID),
    Field('image_id', _is_id, 'the id of a picture'),
    Field('category_id', _is_id, 'the id of a category'),
    Field('bbox', anything, '[x, y, width, height]'),
    Field('area', is_number, 'pixels of the object, or width * height of its box'),
)
CATEGORIES = (Field('id', _is_id, ID), Field('name', _is_text, 'text'))


def read_coco(
    report: Report,
    path: str,
    images: Sequence[Field] = IMAGES,
    annotations: Sequence[Field] = OBJECTS,
    categories: Sequence[Field] = CATEGORIES,
) -> dict | None:
    """The content of a file whose every entry has the fields; None after an error."""
    content = read_json(report, path)
    if content is None:
        return None
    lists = content if isinstance(content, Mapping) else {}
    absent = [part for part in PARTS if not isinstance(lists.get(part), list)]
    if absent:
        report.error(f'{path} has no list {" and no list ".join(absent)}', FORM)
        return None
    before = report.errors
    for part, fields in zip(PARTS, (images, annotations, categories), strict=True):
        check_fields(report, path, part, content[part], fields)
    return content if report.errors == before else None


def read_json(report: Report, path: str) -> object | None:
    """What the file holds; None after an error."""
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except (ValueError, OSError, RecursionError) as error:
        report.error(
            f'{path} is not readable as JSON: {error}',
            'it may be cut off or another kind of file: copy or export it again',
        )
        return None


def check_fields(
    report: Report, path: str, part: str, entries: list, fields: Sequence[Field]
) -> None:
    strange = [entry for entry in entries if not isinstance(entry, Mapping)]
    if strange:
        report.error(
            f'{len(strange)} entries of "{part}" in {path} are no objects {{…}}: '
            f'{_short(strange[0])}',
            f'remove them, or write {", ".join(field.name for field in fields)}',
        )
        return
    for field in fields:
        lacking = [entry for entry in entries if field.name not in entry]
        if lacking:
            report.error(
                f'{len(lacking)} entries of "{part}" in {path} lack {field.name}: '
                f'{_short(lacking[0])}',
                f'every entry of "{part}" needs {field.name}: {field.expected}',
            )
        wrong = [e for e in entries if not field.fits(e.get(field.name))]
        wrong = [entry for entry in wrong if field.name in entry]
        if wrong:
            report.error(
                f'{len(wrong)} entries of "{part}" in {path} have another '
                f'{field.name} than {field.expected}: '
                f'{some([f"{_name(e)}: {_short(e[field.name], 40)}" for e in wrong])}',
                f'write {field.name}: {field.expected}',
            )


def _name(entry: Mapping) -> str:
    return f'id {_short(entry.get("id"), 40)}'


def _short(value: object, most: int = 120) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f'{text[:most]}…'
