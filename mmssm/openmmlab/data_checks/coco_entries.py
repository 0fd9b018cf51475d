"""Categories of a COCO file against the classes, and what its entries point to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks.report import Report, as_tuple, similar, some


class Coco(NamedTuple):
    """A file that has all its fields; images by their ids."""

    path: str
    images: Mapping[object, Mapping]
    objects: Sequence[Mapping]
    categories: Sequence[Mapping]

    def size(self, entry: Mapping) -> tuple[float, float] | None:
        """(width, height) of the picture of an annotation."""
        image = self.images.get(entry['image_id'])
        return image and (image['width'], image['height'])


def index_images(report: Report, path: str, images: Sequence[Mapping]) -> dict:
    """Images by their ids, which must differ."""
    number = Counter(image['id'] for image in images)
    repeated = [key for key, count in number.items() if count > 1]
    if repeated:
        report.error(
            f'{path}: {len(images) - len(number)} pictures have the id of another: ids '
            f'{some(repeated)}',
            'give every entry of "images" an id of its own',
        )
    return {image['id']: image for image in images}


def check_categories(
    report: Report, file: Coco, classes: Sequence[str], numbers_all: bool = False
) -> None:
    """mmdet keeps the categories whose names are in `classes`, in the file's order.

    numbers_all: the dataset numbers all categories of its file instead, as LVIS does.
    """
    names = [category['name'] for category in file.categories]
    _check_repeated(report, file, names)
    absent = [name for name in classes if name not in names]
    kept = [name for name in names if name in classes]
    if not kept:
        report.error(
            f'{file.path}: no class of the config is a category of the file: classes '
            f'{some(classes)}; categories {some(names)}',
            f'metainfo=dict({as_tuple(names)}) in every dataset of the config, and '
            f'num_classes={len(names)} in the heads',
        )
        return
    for name in absent:
        meant = similar(name, [n for n in names if n not in classes])
        report.error(
            f'class {name!r} of the config is not a category of the file, so the label '
            'of every class after it is off by one',
            f'the file has {meant!r}: write that in metainfo.classes'
            if meant
            else 'take it out of metainfo.classes and correct num_classes',
        )
    if not absent and kept != list(classes):
        report.error(
            'metainfo.classes has another order than the categories of the file; '
            'mmdet numbers the labels by the file, so names and palette get mixed up',
            f'write {as_tuple(kept)}',
        )
    unused = [name for name in names if name not in classes]
    if unused and numbers_all:
        report.error(
            f'categories of {file.path} that metainfo.classes leaves out: '
            f'{some(unused)}; LVIS datasets number all categories of the file',
            "name them all, or use type='CocoDataset', which leaves the others out",
        )
    elif unused and not absent:
        report.warning(
            f'categories of the file that the config leaves out: {some(unused)}',
            'add them to metainfo.classes, unless you mean it',
        )


def _check_repeated(report: Report, file: Coco, names: Sequence[str]) -> None:
    for what, values in (('id', [c['id'] for c in file.categories]), ('name', names)):
        repeated = [value for value, n in Counter(values).items() if n > 1]
        if repeated:
            report.error(
                f'{file.path}: categories with one {what}: {some(repeated)}',
                f'give every category a {what} of its own',
            )


def check_references(report: Report, file: Coco) -> None:
    """Ids of annotations, and the pictures and categories they point to."""
    known = {category['id'] for category in file.categories}
    repeated = [i for i, n in Counter(o['id'] for o in file.objects).items() if n > 1]
    lost = [o['id'] for o in file.objects if o['image_id'] not in file.images]
    unknown = {o['category_id'] for o in file.objects} - known
    if repeated:
        report.error(
            f'{file.path}: annotation ids that occur more than once: {some(repeated)}',
            'number the annotations anew; mmdet and COCO evaluation rely on their ids',
        )
    if lost:
        report.error(
            f'{file.path}: annotations of pictures that "images" does not have: ids '
            f'{some(lost)}',
            'remove them or add the pictures; image_id must be an id, not a file name',
        )
    if unknown:
        report.error(
            f'{file.path}: category_id without a category: '
            f'{some(sorted(unknown, key=str))} (there are '
            f'{some(sorted(known, key=str))})',
            'add the categories or correct the ids; the ids of the file count, which '
            'often begin at 1',
        )
