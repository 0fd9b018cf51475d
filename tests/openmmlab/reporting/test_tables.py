"""Tables of classes are those of mmdet's and mmseg's own metrics."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmssm.openmmlab.prediction import Detections
from mmssm.openmmlab.reporting.evaluating import Outcome, worst
from mmssm.openmmlab.reporting.tables import ObjectTable, RegionTable
from mmssm.openmmlab.reporting.truth import Objects

pytestmark = pytest.mark.filterwarnings('ignore')
CLASSES = ('a', 'b', 'c')
HEIGHT, WIDTH, PICTURES = 150, 200, 6


def bitmap(box):
    bits = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    left, top, right, bottom = (int(v) for v in box)
    bits[top:bottom, left:right] = 1
    bits[top : top + 2, left : left + 2] = 0
    return coco_mask.encode(bits)


def random_objects(rng):
    """Real objects of a picture, one of them a crowd; found ones near them."""
    count = int(rng.integers(2, 6))
    corner = rng.integers(0, 90, (count, 2))
    real = np.concatenate([corner, corner + rng.integers(8, 60, (count, 2))], 1)
    labels, ignored = rng.integers(0, 2, count), np.arange(count) == 0
    truth = Objects(
        np.float32(real), labels, [bitmap(b) for b in real], np.array(ignored)
    )
    moved = np.clip(np.repeat(real, 2, 0) + rng.integers(-5, 6, (2 * count, 4)), 0, 149)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 3)
    scores = -np.sort(-rng.random(2 * count).astype(np.float32))
    found = Detections(
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        CLASSES,
        [(0, 0, 0)] * 3,
        np.float32(moved),
        scores,
        rng.integers(0, 3, 2 * count),
        [bitmap(b) for b in moved],
    )
    return truth, found


def write_coco(path, truths):
    images, entries = [], []
    for number, truth in enumerate(truths, 1):
        size = dict(height=HEIGHT, width=WIDTH)
        images.append(dict(size, id=number, file_name=f'{number}.png'))
        for box, label, mask, ignored in zip(*truth[:3], truth.ignored, strict=True):
            left, top, right, bottom = box.tolist()
            entries.append(
                dict(
                    id=len(entries) + 1,
                    image_id=number,
                    category_id=int(label) + 1,
                    bbox=[left, top, right - left, bottom - top],
                    area=float(coco_mask.area(mask)),
                    iscrowd=int(ignored),
                    segmentation=dict(mask, counts=mask['counts'].decode()),
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=entries, categories=categories)
    path.write_text(json.dumps(content))


def mmdets_metrics(path, found):
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'], classwise=True)
    metric.dataset_meta = dict(classes=CLASSES)
    for number, each in enumerate(found, 1):
        predicted = dict(
            bboxes=torch.from_numpy(each.boxes),
            scores=torch.from_numpy(each.scores),
            labels=torch.from_numpy(each.labels),
            masks=each.masks,
        )
        sample = dict(
            img_id=number, ori_shape=(HEIGHT, WIDTH), pred_instances=predicted
        )
        metric.process({}, [sample])
    return metric.evaluate(len(found))


def test_objects_as_mmdet_has_them(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [random_objects(rng) for _ in range(PICTURES)]
    table = ObjectTable(CLASSES)
    for truth, found in pictures:
        table.add(truth, found)
    overall, rows = table.result()
    write_coco(tmp_path / 'a.json', [truth for truth, _ in pictures])
    expected = mmdets_metrics(tmp_path / 'a.json', [found for _, found in pictures])
    assert 0.05 < overall['boxes AP'] < 0.95
    for ours, theirs in (('boxes', 'bbox'), ('masks', 'segm')):
        for suffix, name in (
            ('AP', 'mAP'),
            ('AP50', 'mAP_50'),
            ('AP75', 'mAP_75'),
            ('AP small', 'mAP_s'),
            ('AP medium', 'mAP_m'),
        ):
            value = expected[f'coco/{theirs}_{name}']
            assert overall[f'{ours} {suffix}'] == pytest.approx(value, abs=6e-4)
    by_class = [expected[f'coco/{name}_precision'] for name in 'ab']
    ours = [row['masks AP'] for row in rows[:2]]  # the last that is asked for
    assert ours == pytest.approx(by_class, abs=6e-4)
    assert rows[2]['objects'] == 0
    assert rows[2]['boxes AP'] is None
    counted = sum(int((~truth.ignored).sum()) for truth, _ in pictures)
    assert sum(row['objects'] for row in rows) == counted


def test_without_masks_there_are_boxes_alone():
    truth, found = random_objects(np.random.default_rng(1))
    table = ObjectTable(CLASSES)
    table.add(truth._replace(masks=None), found)
    overall, _ = table.result()
    assert set(overall) == {
        f'boxes {n}'
        for n in ('AP', 'AP50', 'AP75', 'AR', 'AP small', 'AP medium', 'AP large')
    }


def test_regions_as_mmseg_has_them():
    from mmseg.evaluation import IoUMetric

    rng = np.random.default_rng(0)
    table, metric = RegionTable(CLASSES), IoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    for _ in range(PICTURES):
        real = rng.integers(0, 3, (9, 14))
        found = np.where(rng.random(real.shape) < 0.6, real, rng.integers(0, 3))
        real[rng.random(real.shape) < 0.1] = 255
        table.add(real, found)
        sample = dict(
            pred_sem_seg=dict(data=torch.from_numpy(found)[None]),
            gt_sem_seg=dict(data=torch.from_numpy(real)[None]),
        )
        metric.process({}, [sample])
    overall, rows = table.result()
    expected = metric.evaluate(PICTURES)
    for name in ('aAcc', 'mIoU', 'mAcc'):
        assert 100 * overall[name] == pytest.approx(expected[name], abs=0.006)
    assert sum(row['share'] for row in rows) == pytest.approx(1)
    assert table.counts.sum() == sum(table.counts.sum(0))


def test_a_class_that_is_nowhere_has_no_number():
    table = RegionTable(CLASSES)
    table.add(np.array([[0, 0, 255]]), np.array([[0, 1, 2]]))
    overall, rows = table.result()
    assert table.counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert [row['IoU'] for row in rows] == [0.5, 0.0, None]
    assert overall['mIoU'] == 0.25


def test_the_worst():
    outcomes = [
        Outcome(0, 'a', 0.5, 1, '', 1.0),
        Outcome(1, 'b', 0.5, 4, '', float('nan')),
        Outcome(2, 'c', 0.9, 1, '', 3.0),
    ]
    assert [o.path for o in worst(outcomes, 2)] == ['b', 'a']
    assert [o.path for o in worst(outcomes, 3, 'loss')] == ['b', 'c', 'a']
