"""The loss of single pictures, as a training would have it, of a model in eval mode."""

import copy
from collections.abc import Mapping

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope

from mmssm.openmmlab.data_checks.leaves import first_lines, leaves
from mmssm.openmmlab.engine import configs, mixed_precision
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Predictor
from mmssm.openmmlab.reporting.truth import Truths, find_steps

READING = ('LoadAnnotations', 'LoadPanopticAnnotations')
SEED = 0  # heads that draw samples of their boxes draw the same ones for a picture


class Losses:
    """The total loss of a picture by its index in Truths.

    Pictures come as in a test: whole and not augmented, each for itself.
    """

    def __init__(self, model: Predictor, cfg: Config, truths: Truths) -> None:
        self._predictor, self._truths = model, truths
        with DefaultScope.overwrite_default_scope(truths.scope):
            try:
                self._prepare = Compose(_pipeline(cfg, truths))
            except ImportError as error:  # LoadPanopticAnnotations has no other way
                raise UserError(
                    f'losses need a package: {first_lines(error)} Without losses: '
                    '--by metric'
                ) from error

    def __call__(self, index: int) -> float:
        model = self._predictor.model
        info = copy.deepcopy(self._truths.pictures[index].info)
        preprocessor = model.data_preprocessor
        augments = getattr(preprocessor, 'batch_augments', None)
        with DefaultScope.overwrite_default_scope(self._truths.scope):
            packed = self._prepare(info)
            if packed is None:
                raise UserError(f'{info.get("img_path")}: the pipeline drops it')
            try:
                if augments is not None:
                    preprocessor.batch_augments = None
                return self._loss(pseudo_collate([packed]))
            finally:
                if augments is not None:
                    preprocessor.batch_augments = augments

    def _loss(self, batch: Mapping) -> float:
        model = self._predictor.model
        with (
            torch.random.fork_rng(),
            torch.no_grad(),
            mixed_precision.autocast(self._predictor.amp),
        ):
            torch.manual_seed(SEED)
            data = model.data_preprocessor(batch, True)
            losses = model(**data, mode='loss')
            total, _ = model.parse_losses(losses)
        return float(total)


def _pipeline(cfg: Config, truths: Truths) -> list[dict]:
    """The pipeline of the loader with annotations read before anything is resized."""
    leaf = next(leaves(cfg[truths.key].dataset, truths.key))
    test = next(leaves(cfg.test_dataloader.dataset, 'test_dataloader'))
    steps = [copy.deepcopy(dict(step)) for step in test.settings['pipeline']]
    others = [s for s in steps if not _ends(s, READING)]
    train = cfg.get('train_dataloader') or cfg[truths.key]
    known = [
        *find_steps(train, READING),
        *find_steps(leaf.settings, READING),
    ]
    reading = known[0] if known else _reading(truths)
    return [others[0], copy.deepcopy(dict(reading)), *others[1:]]


def _reading(truths: Truths) -> dict:
    if truths.scope == configs.SEGMENTATION:
        return {'type': 'LoadAnnotations'}
    masks = truths.has_masks()
    return {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': masks}


def _ends(step: Mapping, name: tuple[str, ...]) -> bool:
    kind = step['type']
    return (kind if isinstance(kind, str) else kind.__name__).endswith(name)
