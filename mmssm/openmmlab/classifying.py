"""A classifier of a config, and how its pictures are read, for `mmssm-evaluate`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmssm.analysis.accuracy import Recipe
from mmssm.openmmlab import released
from mmssm.openmmlab.engine.configs import CLASSIFICATION, read_config, task_scope
from mmssm.openmmlab.errors import UserError
from mmssm.weights import detect_family, load_file, load_weights, unwrap

SIZES = '--resize and --crop say them'


class Logits(nn.Module):
    """An ImageClassifier of mmpretrain as a function of the pictures alone."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x, mode='tensor')


class Configured(NamedTuple):
    """model: with its weights.  family, arch: of the backbone, '' for other packages'.

    classes: of the head; None where it does not tell.
    """

    model: nn.Module
    recipe: Recipe
    classes: int | None
    family: str
    arch: str


def from_config(
    path: str,
    options: Mapping[str, object] | None,
    weights: str,
    key: str | None = None,
) -> Configured:
    """The classifier of a config of mmpretrain, with weights.

    options: changes, see `read_config`.  weights: a file, ours or the released one, or
    'official'.  key: outer key of the weights in the file.
    Raises UserError for other configs and for what cannot be read; ValueError for
    weights that do not fit, all of them named.
    """
    cfg = read_config(path, options)
    if task_scope(cfg) != CLASSIFICATION:
        raise UserError(
            f'{path} has default_scope={cfg.get("default_scope")!r}; expected a '
            f'classifier, of {CLASSIFICATION!r}: mmssm-test evaluates the others'
        )
    official = weights == 'official'
    content = load_file(released.of_config(cfg) if official else weights)
    with DefaultScope.overwrite_default_scope(CLASSIFICATION), torch.no_grad():
        model = MODELS.build(cfg.model)
    family = getattr(model.backbone, 'family', '')
    found = unwrap(content, key)
    if detect_family(found) == family:
        found = released.for_mmpretrain(found, family)
    try:
        load_weights(model, found)
    except ValueError as error:
        raise ValueError(f'{weights}: {error}') from error
    arch = str(getattr(model.backbone, 'arch', ''))
    classes = getattr(model.head, 'num_classes', None)
    return Configured(Logits(model), recipe_of(cfg), classes, family, arch)


def recipe_of(cfg: Config) -> Recipe:
    """How the test pipeline of a config reads a picture.

    Raises UserError for a pipeline without a size, and for pictures in BGR.
    """
    steps = cfg.get('test_pipeline') or cfg.test_dataloader.dataset.pipeline
    kinds = {str(step['type']).split('.')[-1]: step for step in steps}
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if 'LoadImageFromFile' in kinds and not preprocessor.get('to_rgb'):
        raise UserError(
            f'{cfg.filename} gives its model BGR pictures (to_rgb is not set in the '
            'data_preprocessor); mmssm-evaluate reads RGB. mmssm-test evaluates it'
        )
    recipe = Recipe(mean=tuple(preprocessor.mean), std=tuple(preprocessor.std))
    side = side_of(cfg)
    if side is None:
        raise UserError(f'the test pipeline of {cfg.filename} tells no size; {SIZES}')
    edge = kinds.get('ResizeEdge') or kinds.get('Resize')
    if edge is None:
        return recipe._replace(resize=side, crop=side)
    how = edge.get('interpolation', 'bilinear')
    return recipe._replace(resize=_side(edge['scale']), crop=side, interpolation=how)


def side_of(cfg: Config) -> int | None:
    """Of the pictures of a classifier in tests; None where its config is silent."""
    steps = cfg.get('test_pipeline') or (cfg.get('test_dataloader') or {}).get(
        'dataset', {}
    ).get('pipeline', [])
    kinds = {str(step['type']).split('.')[-1]: step for step in steps}
    for kind, key in (
        ('CenterCrop', 'crop_size'),
        ('ResizeEdge', 'scale'),
        ('Resize', 'scale'),
    ):
        if kind in kinds:
            return _side(kinds[kind][key])
    backbone = cfg.model.backbone
    size = backbone.get('train_size') or backbone.get('host', backbone).get('img_size')
    return _side(size) if size else None


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else int(size[0])
