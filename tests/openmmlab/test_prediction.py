"""Predictions on one's own pictures: the model's, drawn, sliced, and written."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from openmmlab.engine import tiny
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import mmssm
from mmssm.openmmlab.cli import predict
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Detections, Segmentation, drawing
from mmssm.openmmlab.prediction.slicing import (
    AveragedLabels,
    merge_detections,
    windows,
)
from mmssm.weights import save_file

pytestmark = pytest.mark.filterwarnings('ignore')
DETECTOR = (
    Path(__file__)
    .resolve()
    .parents[2]
    .joinpath('configs/demo/mask-rcnn_vminet-demo_fpn_shapes.py')
)
RGB = np.random.default_rng(0).integers(0, 256, (50, 83, 3), np.uint8)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Configs of a tiny detector and segmenter with a checkpoint of each."""
    folder = tmp_path_factory.mktemp('tiny')
    found = {}
    configs = {
        'detection': DETECTOR,
        'segmentation': tiny.write_config(folder, 'segmentation'),
    }
    for task, config in configs.items():
        cfg = Config.fromfile(config)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
        weights = folder / f'{task}.pth'
        save_file(
            {'meta': {'dataset_meta': {}}, 'state_dict': model.state_dict()}, weights
        )
        found[task] = (str(config), str(weights))
    return found


@pytest.fixture(scope='module')
def segmenter(trained):
    return mmssm.load(*trained['segmentation'], device='cpu')


@pytest.fixture(scope='module')
def detector(trained):
    return mmssm.load(*trained['detection'], device='cpu')


def test_a_picture_is_the_same_however_it_comes(segmenter, tmp_path):
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    from_file = segmenter(tmp_path / 'a.png')
    assert isinstance(from_file, Segmentation)
    assert from_file.labels.shape == RGB.shape[:2]
    assert np.array_equal(from_file.image, RGB)
    for picture in (RGB, Image.fromarray(RGB), str(tmp_path / 'a.png')):
        assert np.array_equal(segmenter(picture).labels, from_file.labels)
    several = segmenter([RGB, RGB[:31]], batch=2)
    assert np.array_equal(several[0].labels, from_file.labels)
    assert several[1].labels.shape == (31, 83)


def test_it_is_what_the_host_package_predicts(trained, segmenter, detector):
    from mmdet.apis import inference_detector, init_detector
    from mmseg.apis import inference_model, init_model

    bgr = np.ascontiguousarray(RGB[..., ::-1])
    config, weights = trained['segmentation']
    cfg = Config.fromfile(config)
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    host = init_model(cfg, weights, device='cpu')
    expected = inference_model(host, bgr).pred_sem_seg.data[0].numpy()
    assert np.array_equal(segmenter(RGB).labels, expected)
    host = init_detector(*trained['detection'], device='cpu')
    expected = inference_detector(host, bgr).pred_instances
    found = detector(RGB, score=0.0)
    assert len(found.boxes) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.bboxes.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), rtol=1e-5)
    assert np.array_equal(found.bitmaps(), expected.masks.numpy())


def test_objects_below_the_score_are_left_out(detector):
    every = detector(RGB, score=0.0)
    least = float(np.median(every.scores))
    some = detector(RGB, score=least)
    assert 0 < len(some.scores) < len(every.scores)
    assert some.scores.min() >= least


@pytest.mark.parametrize('length', [1, 63, 64, 65, 100, 200, 1333])
@pytest.mark.parametrize('overlap', [0.0, 0.2, 0.9])
def test_windows_cover_and_overlap(length, overlap):
    places = windows(length, 40, 64, overlap)
    assert {(left, right) for _, left, _, right in places} == {(0, 40)}
    rows = [(top, bottom) for top, _, bottom, _ in places]
    assert rows[0][0] == 0
    assert rows[-1][1] == length
    assert all(bottom - top == min(64, length) for top, bottom in rows)
    for (_, end), (start, _) in zip(rows, rows[1:], strict=False):
        assert end - start >= int(64 * overlap)


def test_slices_as_large_as_the_picture_change_nothing(segmenter, detector):
    assert np.array_equal(segmenter(RGB, slice=83).labels, segmenter(RGB).labels)
    whole, sliced = detector(RGB, score=0.0), detector(RGB, score=0.0, slice=83)
    kept = {tuple(box) for box in sliced.boxes.tolist()}
    assert kept <= {tuple(box) for box in whole.boxes.tolist()}
    assert sliced.masks is not None


def test_logits_are_averaged_row_by_row():
    generator = torch.Generator().manual_seed(0)
    sums, counts = torch.zeros(3, 50, 60), torch.zeros(50, 60)
    averaged = AveragedLabels(50, 60, 0.5)
    for top, left, bottom, right in windows(50, 60, 20, 0.3):
        logits = torch.randn(3, bottom - top, right - left, generator=generator)
        averaged.add((top, left, bottom, right), logits)
        assert averaged._sums.shape[1] <= 20  # of the picture's 50 rows
        sums[:, top:bottom, left:right] += logits
        counts[top:bottom, left:right] += 1
    assert counts.max() > 1
    assert np.array_equal(averaged.result(), (sums / counts).argmax(0).numpy())


def detections(boxes, scores, labels, size=(50, 60), masks=False):
    image = np.full((*size, 3), 128, np.uint8)
    boxes = np.float32(boxes).reshape(-1, 4)
    found = None
    if masks:
        found = []
        for left, top, right, bottom in boxes.astype(int):
            bits = np.zeros(size, np.uint8, order='F')
            bits[top:bottom, left:right] = 1
            found.append(coco_mask.encode(bits))
    colours = drawing.distinct_colours(2)
    scores, labels = np.float32(scores), np.int64(labels)
    return Detections(image, ('cat', 'dog'), colours, boxes, scores, labels, found)


def test_objects_of_windows_are_moved_and_merged():
    whole = detections([], [], [], (50, 100))
    left = detections([[30, 10, 50, 30], [0, 0, 9, 9]], [0.8, 0.5], [0, 1], masks=True)
    right = detections(
        [[0, 10, 10, 30], [1, 11, 20, 30]], [0.7, 0.9], [1, 0], masks=True
    )
    merged = merge_detections(whole, [((0, 0, 50, 60), left), ((0, 30, 50, 90), right)])
    # (30, 10, 50, 30) and (31, 11, 50, 30) are one object; another class is not
    assert merged.boxes.tolist() == [[31, 11, 50, 30], [30, 10, 40, 30], [0, 0, 9, 9]]
    assert merged.labels.tolist() == [0, 1, 1]
    bits = merged.bitmaps()
    assert bits.shape == (3, 50, 100)
    assert bits[0, 11:30, 31:50].all()
    assert bits[0].sum() == 19 * 19
    nothing = merge_detections(whole, [((0, 0, 50, 60), detections([], [], []))])
    assert len(nothing.boxes) == 0


def test_drawings_keep_the_picture_and_name_what_is_there():
    found = detections([[10, 20, 30, 40]], [0.87], [1], masks=True)
    drawn = found.draw()
    scale = drawn.shape[1] // 60
    assert drawn.shape == (50 * scale, 60 * scale, 3)
    assert (drawn[-5 * scale :] == 128).all()  # far from the object nothing changes
    inside = drawn[30 * scale, 20 * scale].astype(float)
    assert np.abs(inside - 128).max() < 0.5 * 128  # a light fill
    assert not np.array_equal(inside, [128] * 3)
    above = drawn[18 * scale : 20 * scale - 2, 10 * scale : 14 * scale]
    assert (above != 128).any()  # its name is outside of the box
    labels = np.zeros((50, 60), np.uint8)
    labels[:10] = 1
    regions = Segmentation(found.image, ('a', 'b'), found.colours, labels)
    assert regions.shares() == {'a': 0.8, 'b': 0.2}
    assert regions.draw().shape[0] > 50 * scale  # a legend below


def test_colours_differ():
    colours = np.array(drawing.distinct_colours(150), float)
    gaps = np.abs(colours[1:] - colours[:-1]).max(1)
    assert gaps.min() > 60
    assert len({tuple(c) for c in colours}) == 150


def test_files(tmp_path):
    found = detections([[10, 20, 30, 40]], [0.87], [1], masks=True)
    found.save(tmp_path / 'deep/er/a.png')
    assert cv2.imread(str(tmp_path / 'deep/er/a.png')) is not None
    with pytest.raises(ValueError, match=r'ends in .\.xyz.; expected \.jpg'):
        found.save(tmp_path / 'a.xyz')
    labels = np.arange(50 * 60).reshape(50, 60) % 300
    regions = Segmentation(
        found.image, ['x'] * 300, [(0, 0, 0)] * 300, np.uint16(labels)
    )
    regions.save_labels(tmp_path / 'a.png')
    read = cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read, labels)
    with pytest.raises(ValueError, match=r'kept whole by \.png'):
        regions.save_labels(tmp_path / 'a.jpg')
    assert {p.name for p in tmp_path.iterdir()} == {'deep', 'a.png'}


def test_command_on_a_folder(trained, tmp_path, capsys):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index in range(3):
        Image.fromarray(RGB[: 40 + index]).save(folder / f'{index} é.png')
    (folder / 'broken.jpg').write_text('no picture')
    (folder / 'notes.txt').write_text('no picture')
    out = tmp_path / 'out'
    options = ['--out', str(out), '--device', 'cpu', '--score', '0', '--batch', '2']
    with pytest.raises(SystemExit) as stopped:
        predict([*trained['detection'], str(folder), *options])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert '3 of 4 pictures' in printed
    assert 'broken.jpg cannot be read as a picture' in printed
    content = COCO(str(out / 'predictions.json'))
    assert [i['file_name'] for i in content.imgs.values()] == [
        f'{index} é.png' for index in range(3)
    ]
    for annotation in content.anns.values():
        height = content.imgs[annotation['image_id']]['height']
        assert content.annToMask(annotation).shape == (height, 83)
        assert annotation['category_id'] in content.cats
    assert {p.name for p in out.glob('*.jpg')} == {f'{i} é.jpg' for i in range(3)}


def test_command_on_one_picture_and_a_video(trained, tmp_path):
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    options = ['--device', 'cpu', '--slice', '40']
    args = [*trained['segmentation'], str(tmp_path / 'a.png')]
    predict([*args, '--out', str(tmp_path / 'out'), *options])
    labels = cv2.imread(str(tmp_path / 'out/labels/a.png'), cv2.IMREAD_UNCHANGED)
    assert labels.shape == RGB.shape[:2]
    assert labels.max() < 2
    video = cv2.VideoWriter(
        str(tmp_path / 'v.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 48)
    )
    for index in range(4):
        video.write(np.full((48, 64, 3), 60 * index, np.uint8))
    video.release()
    args = [*trained['segmentation'], str(tmp_path / 'v.avi')]
    predict([*args, '--out', str(tmp_path / 'video'), '--device', 'cpu'])
    reader = cv2.VideoCapture(str(tmp_path / 'video/v.mp4'))
    assert int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) == 4
    assert reader.get(cv2.CAP_PROP_FPS) == 5
    assert [p.name for p in (tmp_path / 'video').iterdir()] == ['v.mp4']


def test_mistakes_are_named(trained, segmenter, tmp_path):
    config, weights = trained['segmentation']
    with pytest.raises(UserError, match='no checkpoint at'):
        mmssm.load(config, tmp_path / 'none.pth')
    with pytest.raises(UserError, match='does not fit the EncoderDecoder'):
        mmssm.load(config, trained['detection'][1])
    with pytest.raises(UserError, match='the device cuda:7 cannot be used'):
        mmssm.load(config, weights, device='cuda:7')
    with pytest.raises(UserError, match='no picture at'):
        segmenter(tmp_path / 'none.jpg')
    with pytest.raises(ValueError, match=r'array \(50, 83\) of uint8; expected'):
        segmenter(RGB[..., 0])
    with pytest.raises(ValueError, match='overlap 1'):
        segmenter(RGB, slice=20, overlap=1)
    for source, words in (
        (tmp_path / 'none', 'no picture, folder or video at'),
        (tmp_path, 'has no pictures'),
    ):
        with pytest.raises(SystemExit, match=words):
            predict([config, weights, str(source), '--out', str(tmp_path / 'x')])
    assert not (tmp_path / 'x').exists()
