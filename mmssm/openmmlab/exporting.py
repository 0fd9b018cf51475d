"""The part of a model of OpenMMLab that is one function of a batch of pictures."""

from mmdet.models import SingleStageDetector, TwoStageDetector
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from mmssm.openmmlab.any_size import with_free_sizes
from mmssm.openmmlab.classifying import Logits
from mmssm.openmmlab.errors import UserError


class RawOutputs(nn.Module):
    """Pictures, normalised -> what the last layers give: tensors, in nested tuples.

    Segmenters: the logits of decode_head.  Detectors of one stage: the maps of
    bbox_head.  Of two stages: the maps of the neck, then those of rpn_head; what
    follows picks a number of regions that depends on the picture (NMS, RoIAlign).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = with_free_sizes(model.backbone)
        self.neck = getattr(model, 'neck', None)
        self.two_stages = isinstance(model, TwoStageDetector)
        if self.two_stages:
            self.head = model.rpn_head
        else:
            self.head = getattr(model, 'bbox_head', None) or model.decode_head
        self.head = with_free_sizes(self.head)

    def forward(self, x: Tensor) -> object:
        maps = self.backbone(x)
        if self.neck is not None:
            maps = self.neck(maps)
        found = self.head(maps)
        return (tuple(maps), found) if self.two_stages else found


def exportable(model: nn.Module, backbone_alone: bool = False) -> nn.Module:
    """The part of the model that can be exported; of a classifier, its logits.

    Raises UserError for models whose raw outputs are not one function of a picture.
    """
    if backbone_alone:
        return with_free_sizes(model.backbone)
    if is_classifier(model):
        return Logits(with_free_sizes(model))
    kinds = (SingleStageDetector, TwoStageDetector, EncoderDecoder)
    cascade = isinstance(getattr(model, 'decode_head', None), nn.ModuleList)
    if not isinstance(model, kinds) or cascade:
        raise UserError(
            f'{type(model).__name__} cannot be exported; expected a detector of one or '
            'two stages, an encoder with one decode head or a classifier. Its backbone '
            'can: --backbone'
        )
    if isinstance(model, TwoStageDetector) and model.rpn_head is None:
        raise UserError(
            f'{type(model).__name__} has no RPN, hence no raw outputs; its backbone '
            'can be exported: --backbone'
        )
    return RawOutputs(model)


def is_classifier(model: nn.Module) -> bool:
    """Whether it is one of mmpretrain's, which need not be installed."""
    return any(base.__name__ == 'BaseClassifier' for base in type(model).__mro__)


def refuse_any_size(model: nn.Module) -> None:
    """Raise UserError where a graph for pictures of any size would not come to an end.

    mmpretrain's windows, unlike those of mmdet and mmseg, end in no such graph.
    """
    windows = (m for m in model.modules() if type(m).__name__ == 'ShiftWindowMSA')
    if any(type(m).__module__.startswith('mmpretrain.') for m in windows):
        raise UserError(
            f'{type(model.backbone).__name__} has windows of mmpretrain, which cannot '
            'be exported for pictures of any size; expected one: --size HEIGHT WIDTH'
        )


def preparation(model: nn.Module) -> str:
    """What has to be done to a picture before the exported part, in words."""
    given = model.data_preprocessor
    mean, std = (getattr(given, name, None) for name in ('mean', 'std'))
    if mean is None or std is None:
        return 'pictures as the data_preprocessor of the config gives them'
    # the packages spell it differently
    turned = any(
        getattr(given, name, False)
        for name in ('channel_conversion', '_channel_conversion', 'to_rgb')
    )
    order = 'RGB' if turned else 'BGR'
    if is_classifier(model) and not turned:  # of CIFAR, for one, RGB
        order = 'channels in the order of the data'
    low, wide = (', '.join(f'{v:g}' for v in t.flatten().tolist()) for t in (mean, std))
    return f'{order}, minus ({low}), divided by ({wide})'
