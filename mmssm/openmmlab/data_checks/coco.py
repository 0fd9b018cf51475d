"""Checks of a data set in COCO's instance format, LVIS and Cityscapes among them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from mmssm.openmmlab.data_checks import boxes as box_checks
from mmssm.openmmlab.data_checks.boxes import Box, from_extent, sort_boxes
from mmssm.openmmlab.data_checks.coco_entries import (
    Coco,
    check_categories,
    check_references,
    index_images,
)
from mmssm.openmmlab.data_checks.coco_file import IMAGES, Field, read_coco
from mmssm.openmmlab.data_checks.leaves import Leaf
from mmssm.openmmlab.data_checks.masks import REMEDIES, WORDS, mask_fault
from mmssm.openmmlab.data_checks.picture_files import Stated
from mmssm.openmmlab.data_checks.report import Report, counts, some

THINNEST = 1.0  # mmdet drops boxes with a side below one pixel


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
            REMEDIES[kind],
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
