"""The image classifier over a backbone, as its paper trains it."""

import logging
import os
import re
import warnings

from torch import Tensor, nn

from mmssm.backbones.hierarchical import HierarchicalBackbone
from mmssm.weights import (
    StateDict,
    detect_family,
    from_official,
    load_file,
    load_weights,
    unwrap,
)

LOG = logging.getLogger(__name__)


class Classifier(nn.Module):
    """The last map of a backbone, norm, mean over the map, linear.

    (B, in_channels, H, W) -> logits (B, num_classes), any H and W from 1.

    backbone: loses the norms of its outputs.  norm: what its `classifier_norm` makes,
    before the mean, or after it where the backbone has `norm_last`, as ConvNeXt.
    head (num_classes, C): truncated N(0, 0.02^2), bias 0.
    Raises ValueError for a num_classes below 1.
    """

    def __init__(
        self,
        backbone: HierarchicalBackbone,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f'num_classes is {num_classes!r}; expected an integer from 1'
            )
        backbone.out_norms = nn.ModuleDict()
        self.backbone = backbone
        channels = backbone.channels[-1]
        self.norm = backbone.classifier_norm(channels)
        self.head = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, (B, C)."""
        for y in self.backbone.maps(x):
            last = y
        if self.backbone.norm_last:
            return self.norm(last.mean((2, 3)))
        return self.norm(last).mean((2, 3))

    def load_pretrained(
        self, path: str | os.PathLike, *, key: str | None = None
    ) -> None:
        """Load a classifier's weights, ours or the released ones.

        path, and in_channels other than the file's: as the backbone's
        `load_pretrained`.  key: outer key of the weights, such as 'model_ema'.  A head
        for another number of classes is left out, with a warning.
        Raises FileNotFoundError; DownloadError; ValueError for weights that do not
        fit, all of them named, and for 'official' where none were released.
        """
        path = self.backbone.find_weights(path)
        weights = as_ours(unwrap(load_file(path), key), self.backbone.family)
        weights = self.backbone.adapt_stem(weights, 'backbone.')
        found = weights.get('head.weight')
        if found is not None and len(found) != self.head.out_features:
            warnings.warn(
                f'{path} has a head for {len(found)} classes and the model one for '
                f'{self.head.out_features}; the head starts at random',
                stacklevel=2,
            )
            weights = {**weights, **self.head.state_dict(prefix='head.')}
        try:
            report = load_weights(self, weights)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        LOG.info('loaded %s: %s', path, report)


def classes_in(
    path: str | os.PathLike, family: str, key: str | None = None
) -> int | None:
    """Number of classes of the head in a file of `load_pretrained`; None: no head.

    Raises FileNotFoundError; ValueError for what is no file of the family's weights.
    """
    weights = as_ours(unwrap(load_file(path), key), family)
    head = weights.get('head.weight')
    return None if head is None else len(head)


def as_ours(weights: StateDict, family: str) -> StateDict:
    """The names of `Classifier`, from ours, the released ones or mmpretrain's."""
    if detect_family(weights) is not None:
        released = weights
        weights = from_official(weights, family)
        if not any(name.startswith('backbone.') for name in weights):
            weights = {f'backbone.{name}': w for name, w in weights.items()}
            for name, weight in released.items():
                part = re.fullmatch(r'(?:classifier\.)?((?:norm|head)\..*)', name)
                if part:
                    weights[part[1]] = weight
    renamed = {}
    for name, weight in weights.items():
        name = re.sub(r'^(backbone\.out_norms\.\d+|neck\.norm)\.', 'norm.', name)
        renamed[re.sub(r'^head\.fc\.', 'head.', name)] = weight
    return renamed
