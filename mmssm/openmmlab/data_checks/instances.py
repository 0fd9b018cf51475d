"""Checks of a data set in COCO's instance format."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence

from mmssm.openmmlab.data_checks.pictures import read_picture
from mmssm.openmmlab.data_checks.report import (
    Report,
    as_tuple,
    counts,
    sample,
    similar,
    some,
)

PARTS = ('images', 'annotations', 'categories')


def check_instances(
    report: Report,
    dataset: Mapping,
    classes: Sequence[str],
    samples: int | None,
) -> list[str]:
    """Check one CocoDataset of a config; returns the paths of its pictures.

    classes: those of metainfo, or the data set's own. samples: how many pictures to
    open, None for all.
    """
    root = dataset.get('data_root') or ''
    path = os.path.join(root, dataset['ann_file'])
    content = _read(report, path)
    if content is None:
        return []
    folder = os.path.join(root, (dataset.get('data_prefix') or {}).get('img', ''))
    images = {image['id']: image for image in content['images']}
    objects = content['annotations']
    report.fact(
        f'{path}: {len(images)} pictures, {len(objects)} objects, '
        f'{len(content["categories"])} categories'
    )
    if len(images) < len(content['images']):
        report.error(
            f'{len(content["images"]) - len(images)} pictures have the id of another',
            'give every entry of "images" an id of its own',
        )
    _check_classes(report, content['categories'], classes)
    if objects:
        _check_references(report, objects, images, content['categories'])
        _check_boxes(report, objects, images)
        if _wants_masks(dataset.get('pipeline') or ()):
            _check_masks(report, objects)
        _count(report, objects, images, content['categories'])
    elif not dataset.get('test_mode'):
        report.error(f'{path} has no annotations', 'name the file that has them')
    return _check_files(report, folder, images, samples, _turns(dataset))


def _read(report: Report, path: str) -> dict | None:
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (ValueError, OSError) as error:
        report.error(
            f'{path} is not readable as JSON: {error}',
            'it may be cut off or another kind of file: copy or export it again',
        )
        return None
    absent = [
        part
        for part in PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), list)
    ]
    if absent:
        report.error(
            f'{path} has no list {" and no list ".join(absent)}',
            'the COCO format is {"images": [...], "annotations": [...], "categories": '
            '[...]}; captions, panoptic and result files have another form',
        )
        return None
    for part, keys in (
        ('images', ('id', 'file_name', 'width', 'height')),
        ('annotations', ('id', 'image_id', 'category_id', 'bbox')),
        ('categories', ('id', 'name')),
    ):
        for entry in content[part]:
            lacking = [key for key in keys if key not in entry]
            if lacking:
                report.error(
                    f'an entry of "{part}" in {path} lacks {", ".join(lacking)}: '
                    f'{str(entry)[:120]}',
                    f'every entry of "{part}" needs {", ".join(keys)}',
                )
                return None
    return content


def _check_classes(
    report: Report, categories: Sequence[Mapping], classes: Sequence[str]
) -> None:
    """mmdet keeps the categories whose names are in `classes`, in the file's order."""
    names = [category['name'] for category in categories]
    absent = [name for name in classes if name not in names]
    kept = [name for name in names if name in classes]
    if not kept:
        report.error(
            f'no class of the config is a category of the file: classes '
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
    if unused and not absent:
        report.warning(
            f'categories of the file that the config leaves out: {some(unused)}',
            'add them to metainfo.classes, unless you mean it',
        )


def _check_references(
    report: Report,
    objects: Sequence[Mapping],
    images: Mapping[int, Mapping],
    categories: Sequence[Mapping],
) -> None:
    known = {category['id'] for category in categories}
    repeated = [i for i, n in Counter(o['id'] for o in objects).items() if n > 1]
    lost = [o['id'] for o in objects if o['image_id'] not in images]
    unknown = sorted({o['category_id'] for o in objects} - known)
    if repeated:
        report.error(
            f'annotation ids that occur more than once: {some(repeated)}',
            'number the annotations anew; COCO evaluation relies on their ids',
        )
    if lost:
        report.error(
            f'annotations of pictures that "images" does not have: ids {some(lost)}',
            'remove them or add the pictures; image_id must be an id, not a file name',
        )
    if unknown:
        report.error(
            f'category_id without a category: {some(unknown)} (there are '
            f'{some(sorted(known))})',
            'add the categories or correct the ids; the ids of the file count, which '
            'often begin at 1',
        )


def _check_boxes(
    report: Report, objects: Sequence[Mapping], images: Mapping[int, Mapping]
) -> None:
    empty, outside, beyond, tiny = [], [], 0, 0
    checked = 0
    for entry in objects:
        image = images.get(entry['image_id'])
        if image is None:
            continue
        checked += 1
        x, y, w, h = entry['bbox']
        tiny += max(entry['bbox']) <= 1
        if w <= 0 or h <= 0:
            empty.append(entry['id'])
        elif x >= image['width'] or y >= image['height'] or x + w <= 0 or y + h <= 0:
            outside.append(entry['id'])
        else:
            # one pixel of tolerance for tools that round
            beyond += x + w > image['width'] + 1 or y + h > image['height'] + 1
    if empty:
        report.warning(
            f'boxes without width or height (mmdet drops them): ids {some(empty)}',
            'remove or correct these annotations',
        )
    if outside:
        report.error(
            f'boxes outside of their pictures: ids {some(outside)}',
            'correct them, or the sizes of the pictures in "images"',
        )
    if tiny > checked / 2:
        report.error(
            'most boxes lie within 0..1: they are relative to the size of the picture',
            'multiply by width and height; COCO boxes are in pixels',
        )
    elif beyond > checked / 10:
        report.error(
            f'{beyond} of {checked} boxes reach beyond their pictures: they look like '
            '(x1, y1, x2, y2)',
            'COCO boxes are (x, y, width, height); convert them',
        )
    elif beyond:
        report.warning(
            f'{beyond} boxes reach beyond their pictures',
            'mmdet cuts them; look at them',
        )


def _wants_masks(pipeline: Sequence[Mapping]) -> bool:
    return any(step.get('with_mask') for step in pipeline)


def _check_masks(report: Report, objects: Sequence[Mapping]) -> None:
    without = [o['id'] for o in objects if not o.get('segmentation')]
    malformed = [
        o['id']
        for o in objects
        if isinstance(o.get('segmentation'), list)
        and any(len(polygon) < 6 or len(polygon) % 2 for polygon in o['segmentation'])
    ]
    if without:
        report.error(
            f'the pipeline loads masks (with_mask=True), but {len(without)} of '
            f'{len(objects)} annotations have none: ids {some(without)}',
            'add the masks, or train a detector without masks (with_mask=False and no '
            'mask head)',
        )
    if malformed:
        report.error(
            f'polygons with fewer than three points or an odd count: ids '
            f'{some(malformed)}',
            'remove or correct them; a polygon is [x1, y1, x2, y2, x3, y3, ...]',
        )


def _count(
    report: Report,
    objects: Sequence[Mapping],
    images: Mapping[int, Mapping],
    categories: Sequence[Mapping],
) -> None:
    number = Counter(o['category_id'] for o in objects)
    names = [category['name'] for category in categories]
    numbers = [number[category['id']] for category in categories]
    report.fact(counts(names, numbers))
    bare = len(images) - len({o['image_id'] for o in objects} & set(images))
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


def _turns(dataset: Mapping) -> bool:
    """Whether the pipeline obeys the Exif orientation, as it does by default."""
    for step in dataset.get('pipeline') or ():
        if step.get('type') == 'LoadImageFromFile':
            return 'ignore_orientation' not in step.get('color_type', 'color')
    return True


def _check_files(
    report: Report,
    folder: str,
    images: Mapping[int, Mapping],
    samples: int | None,
    turns: bool,
) -> list[str]:
    paths = {i: os.path.join(folder, image['file_name']) for i, image in images.items()}
    missing = [path for path in paths.values() if not os.path.isfile(path)]
    if missing:
        report.error(
            f'{len(missing)} of {len(paths)} pictures do not exist: {some(missing)}',
            'data_prefix.img and "file_name" are joined: correct data_prefix, or fetch '
            'the files',
        )
        return list(paths.values())
    broken, wrong, turned = [], [], []
    chosen = sample(list(images), samples)
    for i in chosen:
        picture = read_picture(paths[i])
        stated = (images[i]['width'], images[i]['height'])
        if isinstance(picture, str):
            broken.append(picture)
        elif picture.size not in (stated, stated[::-1] if picture.turned else stated):
            wrong.append(f'{paths[i]} is {picture.size}, stated {stated}')
        elif turns and picture.turned and picture.size == stated:
            turned.append(paths[i])
    report.fact(f'{len(chosen)} of {len(paths)} pictures opened')
    if broken:
        report.error(f'unreadable: {some(broken)}', 'copy these files again')
    if wrong:
        report.error(
            f'pictures of another size than the file states (width, height): '
            f'{some(wrong)}',
            'correct width and height in "images", and scale boxes and masks if the '
            'pictures were resized',
        )
    if turned:
        report.error(
            'pictures that Exif turns by 90 degrees when they are loaded, while the '
            f'annotations are for the unturned ones: {some(turned)}',
            "LoadImageFromFile(color_type='color_ignore_orientation') in every "
            'pipeline, or save the pictures without Exif orientation',
        )
    return list(paths.values())
