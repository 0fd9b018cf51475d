"""Checks of a data set in COCO's instance format, LVIS and Cityscapes among them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmssm.openmmlab.data_checks import boxes as box_checks
from mmssm.openmmlab.data_checks.boxes import Box, from_extent, sort_boxes
from mmssm.openmmlab.data_checks.coco_file import IMAGES, Field, read_coco
from mmssm.openmmlab.data_checks.leaves import Leaf
from mmssm.openmmlab.data_checks.masks import FIXES, WORDS, mask_fault
from mmssm.openmmlab.data_checks.pictures import Stated
from mmssm.openmmlab.data_checks.report import Report, as_tuple, counts, similar, some

THINNEST = 1.0  # mmdet drops boxes with a side below one pixel


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


def check_coco(
    report: Report, leaf: Leaf, classes: Sequence[str]
) -> list[Stated] | None:
    """Check the file of a CocoDataset; returns its pictures, None if it is no good."""
    dataset = leaf.settings
    root = dataset.get('data_root') or ''
    path = os.path.join(root, dataset.get('ann_file') or '')
    content = read_coco(report, path, _image_fields(leaf))
    if content is None:
        return None
    if any('segments_info' in entry for entry in content['annotations']):
        report.error(f'{path} is a panoptic file', "type='CocoPanopticDataset'")
        return None
    images = index_images(report, path, content['images'])
    found = Coco(path, images, content['annotations'], content['categories'])
    report.fact(
        f'{path}: {len(images)} pictures, {len(found.objects)} objects, '
        f'{len(found.categories)} categories'
    )
    check_categories(report, found, classes, numbers_all=is_lvis(leaf))
    if found.objects:
        check_references(report, found)
        _check_boxes(report, found)
        if any(step.get('with_mask') for step in dataset.get('pipeline') or ()):
            _check_masks(report, found)
        _count(report, found, classes)
    elif not dataset.get('test_mode'):
        report.error(f'{path} has no annotations', 'name the file that has them')
    prefix = (dataset.get('data_prefix') or {}).get('img', '')
    folder = os.path.join(root, prefix)
    return [
        Stated(os.path.join(folder, _file_name(leaf, e)), (e['width'], e['height']))
        for e in images.values()
    ]


def is_lvis(leaf: Leaf) -> bool:
    return any('LVIS' in name for name in leaf.bases)


def _image_fields(leaf: Leaf) -> Sequence[Field]:
    if 'LVISV1Dataset' not in leaf.bases:
        return IMAGES
    # its pictures are named by where they were published
    first, name, *others = IMAGES
    return (first, name._replace(name='coco_url'), *others)


def _file_name(leaf: Leaf, image: Mapping) -> str:
    if 'LVISV1Dataset' in leaf.bases:
        return image['coco_url'].replace('http://images.cocodataset.org/', '')
    name = image['file_name']
    return name[-16:] if is_lvis(leaf) and name.startswith('COCO') else name


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


def _check_boxes(report: Report, file: Coco) -> None:
    own = [entry for entry in file.objects if entry['image_id'] in file.images]
    boxes = [Box(f'id {e["id"]}', from_extent(e['bbox']), file.size(e)) for e in own]
    sound = [e['bbox'] for e in own if box_checks.are_numbers(e['bbox'], 4)]
    if sum(max(box) <= 1 for box in sound) > len(own) / 2:
        report.error(
            f'{file.path}: most boxes lie within 0..1: they are relative to the size '
            'of the picture',
            'multiply by width and height; COCO boxes are in pixels',
        )
        return
    found = sort_boxes(boxes, THINNEST)
    report_boxes(report, file.path, found, dropped=True)
    beyond = found.get(box_checks.BEYOND, ())
    if len(beyond) > len(own) / 10:
        report.error(
            f'{len(beyond)} of {len(own)} boxes reach beyond their pictures: they look '
            'like (x1, y1, x2, y2)',
            'COCO boxes are (x, y, width, height); convert them',
        )
    elif beyond:
        report.warning(
            f'{file.path}: {len(beyond)} boxes reach beyond their pictures: '
            f'{some(beyond)}',
            'mmdet cuts them; look at them',
        )
    flat = [e['id'] for e in own if e['area'] <= 0]
    flat = [i for i in flat if not any(f'id {i} ' in t for t in found.get('empty', ()))]
    if flat:
        report.warning(
            f'{file.path}: objects whose area is 0 or less (mmdet drops them): ids '
            f'{some(flat)}',
            'write the area of the mask, or width * height of the box',
        )


def report_boxes(
    report: Report, path: str, found: Mapping[str, Sequence[str]], dropped: bool
) -> None:
    """Boxes that are wrong by themselves; dropped: mmdet leaves empty ones out."""
    if found.get(box_checks.MALFORMED):
        report.error(
            f'{path}: boxes that are not four numbers: '
            f'{some(found[box_checks.MALFORMED])}',
            'write four numbers, or remove these annotations',
        )
    if found.get(box_checks.NOT_FINITE):
        report.error(
            f'{path}: boxes with NaN or infinity: {some(found[box_checks.NOT_FINITE])}',
            'write numbers, or remove these annotations: the loss becomes NaN',
        )
    if found.get(box_checks.EMPTY) and dropped:
        report.warning(
            f'{path}: boxes without width or height (mmdet drops them): '
            f'{some(found[box_checks.EMPTY])}',
            'remove or correct these annotations',
        )
    elif found.get(box_checks.EMPTY):
        report.error(
            f'{path}: boxes without width or height, which make loss_bbox NaN: '
            f'{some(found[box_checks.EMPTY])}',
            'remove or correct these objects',
        )
    if found.get(box_checks.OUTSIDE):
        report.error(
            f'{path}: boxes outside of their pictures: '
            f'{some(found[box_checks.OUTSIDE])}',
            'correct them, or the sizes of the pictures in the annotations',
        )


def _check_masks(report: Report, file: Coco) -> None:
    found: dict[str, list] = {}
    for entry in file.objects:
        kind = mask_fault(entry.get('segmentation'), file.size(entry))
        if kind:
            found.setdefault(kind, []).append(entry['id'])
    for kind, ids in found.items():
        report.error(
            f'{file.path}: {len(ids)} of {len(file.objects)} annotations have '
            f'{WORDS[kind]}: ids {some(ids)}',
            FIXES[kind],
        )


def _count(report: Report, file: Coco, classes: Sequence[str]) -> None:
    number = Counter(o['category_id'] for o in file.objects)
    names = [category['name'] for category in file.categories]
    numbers = [number[category['id']] for category in file.categories]
    report.fact(counts(names, numbers))
    bare = len(file.images) - len(
        {o['image_id'] for o in file.objects} & {*file.images}
    )
    if bare:
        report.fact(
            f'{bare} pictures have no objects (filter_cfg=dict(filter_empty_gt=True) '
            'leaves them out of training)'
        )
    absent = [name for name, n in zip(names, numbers, strict=True) if n == 0]
    if absent:
        report.warning(
            f'categories without a single object: {some(absent)}',
            'nothing can be learned or measured there; add objects or drop the class',
        )
    kept = {c['id'] for c in file.categories if c['name'] in classes}
    own = [o for o in file.objects if o['category_id'] in kept]
    if own and all(o.get('iscrowd') or o.get('ignore') for o in own):
        report.error(
            f'{file.path}: all {len(own)} objects are crowds (iscrowd) or ignored: '
            'nothing can be learned',
            'iscrowd is 1 for groups only: write 0 for single objects',
        )
