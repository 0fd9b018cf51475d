"""Random images with one square each, for both tasks."""

from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

# height and width before resizing, and what the model is given
ORIGINAL, RESIZED = (32, 48), (64, 96)


def batch(scope: str, size: int = 2) -> dict[str, list]:
    """What a data loader of mmdet or mmseg gives to train_step and test_step."""
    samples = []
    for _ in range(size):
        mask = np.zeros((1, *RESIZED), np.uint8)
        mask[:, 16:48, 32:64] = 1
        sample = _detection(mask) if scope == 'mmdet' else _segmentation(mask)
        sample.set_metainfo(
            dict(img_shape=RESIZED, ori_shape=ORIGINAL, scale_factor=(2.0, 2.0))
        )
        samples.append(sample)
    images = [torch.randint(256, (3, *RESIZED), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def write_sample(scope: str, folder: Path) -> dict[str, object]:
    """Write an image (and a label map) of ORIGINAL size; return a data set's record."""
    image, labels = folder / 'image.png', folder / 'labels.png'
    cv2.imwrite(str(image), np.random.randint(256, size=(*ORIGINAL, 3), dtype=np.uint8))
    height, width = ORIGINAL
    record = dict(img_path=str(image), img_id=0, height=height, width=width)
    if scope == 'mmdet':
        polygon = [8, 8, 24, 8, 24, 24, 8, 24]
        square = dict(bbox=[8, 8, 24, 24], bbox_label=7, mask=[polygon], ignore_flag=0)
        return dict(record, instances=[square])
    cv2.imwrite(str(labels), np.random.randint(151, size=ORIGINAL, dtype=np.uint8))
    extra = dict(label_map=None, reduce_zero_label=True, seg_fields=[])
    return dict(record, seg_map_path=str(labels), **extra)


def _detection(mask: np.ndarray) -> BaseDataElement:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    instance = InstanceData(
        bboxes=torch.tensor([[32.0, 16.0, 64.0, 48.0]]),
        labels=torch.tensor([7]),
        masks=BitmapMasks(mask, *RESIZED),
    )
    return DetDataSample(gt_instances=instance)


def _segmentation(mask: np.ndarray) -> BaseDataElement:
    from mmseg.structures import SegDataSample

    return SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(mask).long()))
