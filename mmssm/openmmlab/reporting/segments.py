"""The real segments of a picture, of data in COCO's panoptic format."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmssm.openmmlab.errors import UserError

VOID = -1  # label of pixels without a segment


class Segments(NamedTuple):
    """Segments of a picture.

    labels: (H, W) int, the class of each pixel, or VOID.  ids: (H, W) int, the segment
    of each pixel, or one that is not in `classes`.  classes: of each segment, by id.
    crowds: ids of segments of many objects, which need not be found.
    """

    labels: np.ndarray
    ids: np.ndarray
    classes: dict[int, int]
    crowds: frozenset[int]


def read_segments(info: Mapping, things: int) -> Segments:
    """The truth of a picture as `CocoPanopticDataset` of mmdet parsed it.

    A pixel of the PNG is the number of its segment, red + 256 green + 65536 blue.
    things: how many classes, the first ones, are of things.
    Raises UserError where the PNG is not known, or cannot be read.
    """
    path = info.get('seg_map_path')
    if not path:
        raise UserError(
            f'{info.get("img_path")} has no panoptic PNG; name their folder in the '
            "dataset: data_prefix=dict(img=…, seg='…')"
        )
    try:
        with Image.open(path) as image:
            red, green, blue = np.moveaxis(np.asarray(image.convert('RGB'), int), 2, 0)
    except OSError as error:
        raise UserError(f'the panoptic map {path} cannot be read: {error}') from error
    ids = red + 256 * green + 65536 * blue
    entries = info['segments_info']
    classes = {int(entry['id']): int(entry['category']) for entry in entries}
    # a thing that mmdet says is none is a crowd
    crowds = frozenset(
        int(entry['id'])
        for entry in entries
        if entry['category'] < things and not entry['is_thing']
    )
    found, places = np.unique(ids, return_inverse=True)
    labels = np.array([classes.get(int(number), VOID) for number in found])
    return Segments(labels[places.reshape(ids.shape)], ids, classes, crowds)
