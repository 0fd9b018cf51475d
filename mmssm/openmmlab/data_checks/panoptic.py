"""Checks of a data set in COCO's panoptic format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mmssm.openmmlab.data_checks import coco_file
from mmssm.openmmlab.data_checks.boxes import BEYOND, Box, from_extent, sort_boxes
from mmssm.openmmlab.data_checks.coco import THINNEST, report_boxes
from mmssm.openmmlab.data_checks.coco_entries import (
    Coco,
    check_categories,
    index_images,
)
from mmssm.openmmlab.data_checks.coco_file import CATEGORIES, ID, Field, read_coco
from mmssm.openmmlab.data_checks.leaves import Leaf
from mmssm.openmmlab.data_checks.picture_files import Stated, report_unreadable
from mmssm.openmmlab.data_checks.pictures import read_label_map
from mmssm.openmmlab.data_checks.report import Report, sample, some

ANNOTATIONS = (
    Field('image_id', coco_file.OBJECTS[1].fits, 'the id of a picture'),
    Field('file_name', coco_file.IMAGES[1].fits, 'the name of the PNG file'),
    Field(
        'segments_info',
        lambda value: (
            isinstance(value, list)
            and all(isinstance(entry, Mapping) for entry in value)
        ),
        'a list with an entry for each segment',
    ),
)
SEGMENTS = (
    Field('id', lambda value: type(value) is int and value > 0, ID + ' above 0'),
    *coco_file.OBJECTS[2:],
)
THINGS = Field('isthing', lambda value: value in (0, 1), '1 for things, 0 for stuff')


def check_panoptic(
    report: Report, leaf: Leaf, classes: Sequence[str], samples: int | None
) -> list[Stated] | None:
    """Check a CocoPanopticDataset; returns its pictures, None if the file is no good.

    samples: how many label maps to open, None for all.
    """
    dataset = leaf.settings
    root = dataset.get('data_root') or ''
    path = os.path.join(root, dataset.get('ann_file') or '')
    categories = (*CATEGORIES, THINGS)
    content = read_coco(report, path, annotations=ANNOTATIONS, categories=categories)
    if content is None:
        return None
    images = index_images(report, path, content['images'])
    segments = [
        dict(segment, image_id=entry['image_id'])
        for entry in content['annotations']
        for segment in entry['segments_info']
    ]
    file = Coco(path, images, segments, content['categories'])
    report.fact(
        f'{path}: {len(images)} pictures, {len(segments)} segments, '
        f'{len(file.categories)} categories'
    )
    before = report.errors
    coco_file.check_fields(report, path, 'segments_info', segments, SEGMENTS)
    if report.errors > before:
        return None
    check_categories(report, file, classes)
    _check_order(report, file, classes)
    _check_entries(report, file, content['annotations'])
    _check_segments(report, file, classes)
    prefix = dataset.get('data_prefix') or {}
    folder = os.path.join(root, prefix.get('img', ''))
    if prefix.get('seg'):
        maps = os.path.join(root, prefix['seg'])
        _check_maps(report, file, maps, content['annotations'], samples)
    return [
        Stated(os.path.join(folder, e['file_name']), (e['width'], e['height']))
        for e in images.values()
    ]


def _check_order(report: Report, file: Coco, classes: Sequence[str]) -> None:
    """Heads count things first, and labels follow the order of the file."""
    things = [bool(c['isthing']) for c in file.categories if c['name'] in classes]
    if things != sorted(things, reverse=True):
        report.error(
            f'{file.path}: stuff stands before things in "categories", but labels '
            'follow that order and the heads count things first',
            'sort "categories" and metainfo.classes: all with isthing 1 first',
        )


def _check_entries(report: Report, file: Coco, entries: Sequence[Mapping]) -> None:
    number = Counter(entry['image_id'] for entry in entries)
    lost = [key for key in number if key not in file.images]
    twice = [key for key, count in number.items() if count > 1]
    bare = [key for key in file.images if key not in number]
    if lost:
        report.error(
            f'{file.path}: annotations of pictures that "images" does not have: '
            f'image_id {some(lost)}',
            'remove them or add the pictures',
        )
    if twice:
        report.error(
            f'{file.path}: pictures with more than one annotation: {some(twice)}',
            'one entry of "annotations" for each picture, with all of its segments',
        )
    if bare:
        report.warning(
            f'{file.path}: pictures without annotation: {some(bare)}',
            'add them, or take the pictures out of "images"',
        )
    stems = {
        key: os.path.splitext(image['file_name'])[0]
        for key, image in file.images.items()
    }
    other = [
        f'{entry["file_name"]} for {file.images[entry["image_id"]]["file_name"]}'
        for entry in entries
        if entry['image_id'] in stems
        and os.path.splitext(entry['file_name'])[0] != stems[entry['image_id']]
    ]
    if other:
        report.error(
            f'{file.path}: label maps of another name than their pictures, by which '
            f'mmdet opens them: {some(other)}',
            'name each PNG file as its picture',
        )


def _check_segments(report: Report, file: Coco, classes: Sequence[str]) -> None:
    number = Counter((s['image_id'], s['id']) for s in file.objects)
    twice = [f'{key} in picture {i}' for (i, key), n in number.items() if n > 1]
    if twice:
        report.error(
            f'{file.path}: segment ids that occur twice in one picture: {some(twice)}',
            'each segment of a picture needs the id of its colour: R + 256 G + 65536 B',
        )
    kept = {c['id']: c for c in file.categories if c['name'] in classes}
    unknown = {s['category_id'] for s in file.objects} - set(kept)
    if unknown:
        report.error(
            f'{file.path}: segments whose category_id is no class: '
            f'{some(sorted(unknown, key=str))}; mmdet stops there',
            'name their categories in metainfo.classes, or remove the segments',
        )
    boxes = [
        Box(
            f'segment {s["id"]} of picture {s["image_id"]}',
            from_extent(s['bbox']),
            file.size(s),
        )
        for s in file.objects
        if s['image_id'] in file.images
    ]
    found = dict(sort_boxes(boxes, THINNEST))
    beyond = found.pop(BEYOND, ())
    report_boxes(report, file.path, found, dropped=True)
    if beyond:
        report.warning(
            f'{file.path}: boxes that reach beyond their pictures: {some(beyond)}',
            'boxes are (x, y, width, height) of the segment',
        )
    things = [s for s in file.objects if kept.get(s['category_id'], {}).get('isthing')]
    if things and all(s.get('iscrowd') for s in things):
        report.error(
            f'{file.path}: all {len(things)} things are crowds (iscrowd): no object '
            'can be learned',
            'iscrowd is 1 for groups only: write 0 for single objects',
        )


def _check_maps(
    report: Report,
    file: Coco,
    folder: str,
    entries: Sequence[Mapping],
    samples: int | None,
) -> None:
    entries = [entry for entry in entries if entry['image_id'] in file.images]
    # mmdet derives the name from the picture's
    paths = [
        os.path.join(
            folder,
            file.images[e['image_id']]['file_name'].replace('.jpg', '.png'),
        )
        for e in entries
    ]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        report.error(
            f'{len(missing)} of {len(paths)} label maps do not exist: {some(missing)}',
            'correct data_prefix.seg, or fetch the files',
        )
        return
    chosen = sample(list(zip(paths, entries, strict=True)), samples)
    broken, sizes, others = [], [], []
    for path, entry in chosen:
        image = file.images[entry['image_id']]
        colours = read_label_map(path)
        if isinstance(colours, str):
            broken.append(colours)
        elif colours.ndim != 3 or colours.shape[2] != 3:
            others.append(f'{path} has shape {colours.shape}, not colours')
        elif colours.shape[1::-1] != (image['width'], image['height']):
            sizes.append(f'{path} is {colours.shape[1::-1]}')
        else:
            ids = {*np.unique(colours.astype(np.int64) @ [1, 256, 65536])} - {0}
            stated = {segment['id'] for segment in entry['segments_info']}
            if ids != stated:
                others.append(
                    f'{path} holds ids {some(sorted(map(int, ids)))}; stated '
                    f'{some(sorted(stated))}'
                )
    report_unreadable(report, broken)
    if sizes:
        report.error(
            f'label maps of another size than their pictures (width, height): '
            f'{some(sizes)}',
            'make them again from the pictures, without a change of size',
        )
    if others:
        report.error(
            f'label maps whose colours are not the segments of {file.path}: '
            f'{some(others)}',
            'a pixel of segment i has the colour R + 256 G + 65536 B = i',
        )
