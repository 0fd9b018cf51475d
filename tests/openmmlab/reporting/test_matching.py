"""Which found object is which real one."""

import numpy as np

from mmssm.openmmlab.reporting.matching import IGNORED, NOTHING, assign, match


def boxes(*corners):
    return np.float32(corners).reshape(-1, 4)


def flags(*values):
    return np.array(values, bool)


def test_the_most_certain_takes_what_it_overlaps_the_most():
    real = boxes([0, 0, 10, 10], [2, 0, 12, 10])
    found = boxes([1, 0, 11, 10], [0, 0, 10, 10], [0, 0, 10, 10])
    # IoU of the first with both is 9/11; the second then takes what is left, 8/12
    assert assign(found, real, flags(0, 0)).tolist() == [0, 1, NOTHING]


def test_half_is_enough_and_less_is_not():
    real = boxes([0, 0, 10, 10])
    assert assign(boxes([0, 0, 10, 5]), real, flags(0)).tolist() == [0]
    assert assign(boxes([0, 0, 10, 4.9]), real, flags(0)).tolist() == [NOTHING]


def test_ignored_ones_take_many_and_none_that_another_can_have():
    real = boxes([0, 0, 100, 100], [0, 0, 10, 10])
    found = boxes([0, 0, 10, 10], [20, 20, 30, 30], [90, 90, 120, 120])
    # inside of a crowd counts by the share of the found box: 1 and 100/900
    assert assign(found, real, flags(1, 0)).tolist() == [1, IGNORED, NOTHING]


def test_pairs_and_the_rest():
    real = boxes([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10])
    found = boxes([0, 0, 10, 10], [20, 0, 30, 10], [80, 0, 90, 10], [60, 0, 70, 10])
    labels, real_labels = np.array([3, 1, 2, 0]), np.array([3, 0, 2, 1])
    matches = match(found, labels, real, real_labels, flags(0, 0, 0, 1))
    assert matches.pairs.tolist() == [[3, 3], [0, 1]]
    assert matches.missed.tolist() == [2]
    assert matches.invented.tolist() == [2]
    assert matches.right() == 1
    assert matches.f1() == 2 * 1 / (3 + 3)


def test_nothing_at_all():
    none = np.zeros(0, np.int64)
    both = match(boxes(), none, boxes(), none, flags())
    assert both.f1() == 1
    invented = match(boxes([0, 0, 9, 9]), np.array([1]), boxes(), none, flags())
    assert invented.f1() == 0
    assert invented.invented.tolist() == [1]
    missed = match(boxes(), none, boxes([0, 0, 9, 9]), np.array([1]), flags(0))
    assert missed.missed.tolist() == [1]
