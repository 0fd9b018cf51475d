"""Run lengths are decoded as pycocotools encodes them; other text is refused."""

import numpy as np
import pytest
from pycocotools import mask as coco

from mmssm.openmmlab.data_checks.masks import decode_counts, mask_fault


def encoded(values):
    return coco.encode(np.asfortranarray(values.astype(np.uint8)))


@pytest.mark.parametrize('density', [0.01, 0.3, 0.9])
@pytest.mark.parametrize('size', [(1, 1), (7, 9), (300, 211)])
def test_runs_are_those_of_the_mask(size, density):
    values = np.random.default_rng(0).random(size) < density
    values[-1, -1] = True
    column = values.flatten(order='F')
    ends = np.flatnonzero(np.diff(column.astype(int))) + 1
    expected = np.diff([0, *ends, column.size]).tolist()
    expected = [0, *expected] if column[0] else expected
    found = encoded(values)
    assert decode_counts(found['counts']) == expected
    assert mask_fault(found, size[::-1]) is None
    as_text = dict(found, counts=found['counts'].decode())
    assert mask_fault(as_text, size[::-1]) is None


def test_text_that_is_cut_or_strange():
    counts = encoded(np.arange(60_000).reshape(200, 300) > 30_000)['counts']
    assert decode_counts(counts[:-1]) != decode_counts(counts)
    assert decode_counts(b'Q') is None  # the first half of a number
    assert decode_counts(b' ') is None
    assert decode_counts(b'O') is None  # a run of less than nothing
    assert decode_counts(b'') == []


def test_masks_without_pixels():
    assert mask_fault(encoded(np.zeros((4, 5)))) == 'empty'
    assert mask_fault(dict(counts=[20], size=[4, 5])) == 'empty'
    assert mask_fault(dict(counts=[18, 2], size=[4, 5])) is None
    assert mask_fault(dict(counts=[18, 2], size=[4, 5]), (4, 5)) == 'size'
    assert mask_fault(dict(counts=[18, -2], size=[4, 5])) == 'malformed'
    assert mask_fault(dict(counts=[18, 2], size=[4, 5.0])) == 'malformed'
    assert mask_fault(dict(counts=None, size=[4, 5])) == 'malformed'
