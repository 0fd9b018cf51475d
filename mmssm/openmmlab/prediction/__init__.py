"""Predictions on pictures of one's own, by any config of mmdet or mmseg.

model = mmssm.load(CONFIG, CHECKPOINT)
result = model('street.jpg')
result.save('out.jpg')
"""

from mmssm.openmmlab.prediction.model import Predictor, load, trained_model
from mmssm.openmmlab.prediction.results import Detections, Segmentation

__all__ = ['Detections', 'Predictor', 'Segmentation', 'load', 'trained_model']
