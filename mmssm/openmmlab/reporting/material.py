"""All that a page about a training shows, gathered; what is missing is said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions, version
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mmengine.config import Config

import mmssm
from mmssm.analysis import receptive_field as fields
from mmssm.openmmlab.data_checks.leaves import first_lines
from mmssm.openmmlab.engine.configs import read_config
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.prediction import Predictor, load
from mmssm.openmmlab.reporting import pairs, run_files
from mmssm.openmmlab.reporting.curves import Run, read_run
from mmssm.openmmlab.reporting.data_summary import Summary, summarise
from mmssm.openmmlab.reporting.evaluating import (
    Evaluation,
    Progress,
    evaluate,
    spread,
    worst,
)
from mmssm.openmmlab.reporting.losses import Losses
from mmssm.openmmlab.reporting.sheets import Tile
from mmssm.openmmlab.reporting.truth import Truths

FIELD_PICTURES = 4
PACKAGES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'triton')


@dataclass
class Options:
    """Of the report.

    data: which loader is evaluated.  score: of objects that count.  most: pictures, at
    most.  shown: pictures of a kind on the page.  progress: goes through the batches.
    """

    data: str = 'test'
    score: float = 0.3
    most: int | None = 500
    shown: int = 6
    batch: int = 1
    device: str | None = None
    amp: str | None = None
    progress: Progress = iter


@dataclass
class Material:
    """What is known of a training; what is not, is None or empty and in `missing`."""

    name: str
    config: Config
    checkpoint: Path | None = None
    run: Run | None = None
    model: list[tuple[str, str]] = field(default_factory=list)
    data: list[Summary] = field(default_factory=list)
    pictures: int = 0
    of_pixels: bool = False
    evaluation: Evaluation | None = None
    samples: list[Tile] = field(default_factory=list)
    worst: dict[str, list[Tile]] = field(default_factory=dict)
    receptive_field: Callable[[], Figure] | None = None
    versions: list[tuple[str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def gather(
    work_dir: Path,
    options: Options,
    config: str | None = None,
    checkpoint: str | None = None,
    changes: dict | None = None,
) -> Material:
    """Look at a work_dir, and predict with its checkpoint on the config's data.

    config, checkpoint: by default the newest config, and the best or last checkpoint
    of the folder.  changes: to the config.
    Raises UserError where there is no config.
    """
    if not work_dir.is_dir():
        raise UserError(f'there is no folder of a training at {work_dir}')
    cfg = read_config(config or str(run_files.find_config(work_dir)), changes)
    found = Path(checkpoint) if checkpoint else run_files.find_checkpoint(work_dir)
    material = Material('/'.join(work_dir.resolve().parts[-2:]), cfg, found)
    material.versions = _versions(work_dir)
    material.commands = run_files.commands(work_dir)
    material.run = _try(material, 'curves', lambda: read_run(work_dir))
    _describe_data(material, options.data)
    if found is None:
        material.missing.append(f'predictions: {work_dir} has no checkpoint (*.pth)')
        return material
    model = _try(
        material,
        'predictions',
        lambda: load(cfg, str(found), options.device, amp=options.amp),
    )
    if model is not None:
        material.model = _of_model(model)
        _try(material, 'predictions', lambda: _predict(material, model, options))
    return material


def _try(material: Material, what: str, step: Callable[[], object]) -> object:
    """The result of a step; None, and a line that says why, where it cannot be had."""
    try:
        return step()
    except UserError as error:
        material.missing.append(f'{what}: {error}')
        return None


def _describe_data(material: Material, evaluated: str) -> None:
    seen = []
    for loader in dict.fromkeys(('train', evaluated)):
        settings = material.config.get(f'{loader}_dataloader')
        if settings is None or settings.dataset in seen:
            continue
        seen.append(settings.dataset)
        summary = _try(
            material,
            f'data of {loader}',
            lambda name=loader: summarise(Truths(material.config, name)),
        )
        if summary is not None:
            material.data.append(summary)


def _predict(material: Material, model: Predictor, options: Options) -> None:
    truths = Truths(material.config, options.data)
    material.pictures, material.of_pixels = len(truths), truths.of_pixels
    loss = _usable_losses(material, model, truths)
    result = evaluate(
        model,
        truths,
        score=options.score,
        batch=options.batch,
        most=options.most,
        loss=loss,
        progress=options.progress,
    )
    material.evaluation = result
    chosen = [result.outcomes[i] for i in spread(len(result.outcomes), options.shown)]
    material.samples = pairs.tiles(model, truths, chosen, options.score)
    measure = truths.measure
    for title, by in ((measure, 'score'), ('loss', 'loss')):
        if by == 'score' or loss is not None:
            bad = list(worst(result.outcomes, options.shown, by))
            material.worst[title] = pairs.tiles(model, truths, bad, options.score)
    paths = [outcome.path for outcome in chosen[:FIELD_PICTURES]]
    material.receptive_field = _receptive_field(material, model, paths)


def _usable_losses(
    material: Material, model: Predictor, truths: Truths
) -> Losses | None:
    """None where the model gives no loss in eval mode, as some heads do not."""
    try:
        losses = Losses(model, material.config, truths)
        losses(0)
    # A head may stop anywhere outside of training; the rest of the page stands.
    except Exception as error:  # noqa: BLE001
        text = f'{type(error).__name__}: {first_lines(error)}'
        material.missing.append(f'losses of pictures: {text}')
        return None
    return losses


def _receptive_field(
    material: Material, model: Predictor, paths: Sequence[str]
) -> Callable[[], Figure] | None:
    """How to draw the trained backbone's field on pictures of the data."""
    backbone = getattr(model.model, 'backbone', None)
    if backbone is None:
        return None
    try:
        images = [model.input_of(path) for path in paths]
        same = [image for image in images if image.shape == images[0].shape]
        contribution = fields.receptive_field(backbone, torch.cat(same))
    # Backbones of other packages may need more than a picture.
    except Exception as error:  # noqa: BLE001
        text = f'{type(error).__name__}: {first_lines(error)}'
        material.missing.append(f'receptive field: {text}')
        return None
    size = '{} × {}'.format(*contribution.shape)
    field_ = fields.Field(type(backbone).__name__, contribution)
    return lambda: fields.draw({size: [field_]}, 'random')


def _of_model(model: Predictor) -> list[tuple[str, str]]:
    network = model.model
    backbone = getattr(network, 'backbone', None)
    count = sum(p.numel() for p in network.parameters())
    facts = [('model', type(network).__name__), ('parameters', f'{count / 1e6:.2f} M')]
    if backbone is not None:
        own = sum(p.numel() for p in backbone.parameters())
        name = type(backbone).__name__
        facts.append(('backbone', f'{name}, {own / 1e6:.2f} M parameters'))
    return facts


def _versions(work_dir: Path) -> list[tuple[str, str]]:
    """Of the training, as its log has them, and of this process."""
    found = [
        (f'{name}, of the training', value)
        for name, value in run_files.environment(work_dir)
    ]
    found += [('mmssm, of this page', mmssm.__version__)]
    known = packages_distributions()
    for name in PACKAGES:
        if name in known:
            found.append((f'{name}, of this page', version(known[name][0])))
    return found
