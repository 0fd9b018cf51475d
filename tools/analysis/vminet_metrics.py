"""Metrics of a trained VMINet detector or segmenter, by treatment of other sizes.

    python tools/analysis/vminet_metrics.py CONFIG CHECKPOINT [--scales 1 1.5 2]

Evaluates the checkpoint on the config's test set once for each choice of
`VMINet(resample=...)` and each scale: images are made larger or smaller by this factor,
on top of what the config's test pipeline does.  'no context' sets alpha to 0, so that
what remains comes from the convolutions.  Prints a markdown table for each metric.
"""

import argparse
import copy
import tempfile
from collections.abc import Mapping, Sequence

import torch

from mmssm.layers.separable_attention import RESAMPLE
from mmssm.openmmlab.errors import UserError, stop_without

try:
    from mmengine.config import Config, DictAction

    from mmssm.openmmlab.engine import configs, running
    from mmssm.openmmlab.engine.loading import read_checkpoint, use_safe_loading
except ModuleNotFoundError as error:
    stop_without('vminet_metrics', error)

NO_CONTEXT = 'no context'
LOADERS = ('LoadImageFromFile', 'LoadImageFromWebcam', 'LoadImageFromNDArray')


def main(argv: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    args = _parse(argv)
    use_safe_loading()
    try:
        cfg = configs.read_config(args.config, args.cfg_options, args.work_dir)
        cfg.launcher = 'none'
        results = compare(cfg, args)
    except UserError as error:
        raise SystemExit(str(error)) from None
    for name in args.metrics or next(iter(results.values()))[0]:
        print(f'\n| {name} | ' + ' | '.join(f'x {s:g}' for s in args.scales) + ' |')
        print('| --- |' + ' --- |' * len(args.scales))
        for choice, found in results.items():
            cells = ' | '.join(f'{values[name]:.3f}' for values in found)
            print(f'| {choice} | {cells} |')


def compare(
    cfg: Config, args: argparse.Namespace
) -> dict[str, list[Mapping[str, float]]]:
    """The metrics at every scale, for every choice."""
    kind = str(cfg.model.backbone.get('type'))
    if not kind.endswith('VMINet'):
        raise UserError(
            f"the backbone of {args.config} is {kind!r}; expected 'mmssm.VMINet'"
        )
    return {
        choice: [metrics(cfg, args.checkpoint, choice, scale) for scale in args.scales]
        for choice in args.choices or (NO_CONTEXT, *RESAMPLE)
    }


def metrics(
    cfg: Config, checkpoint: str, choice: str, scale: float
) -> Mapping[str, float]:
    """What the config's evaluator says of the checkpoint."""
    cfg = copy.deepcopy(cfg)
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = scaled(pipeline, scale)
    if choice != NO_CONTEXT:
        cfg.model.backbone.resample = choice
        return running.evaluate(cfg, checkpoint)
    with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        torch.save(without_context(read_checkpoint(checkpoint)), file.name)
        return running.evaluate(cfg, file.name)


def without_context(checkpoint: dict) -> dict:
    """The checkpoint with alpha, the first of `mix`, at zero in every block."""
    weights = dict(checkpoint['state_dict'])
    for name, value in weights.items():
        if name.endswith('.attention.mix'):
            weights[name] = value * value.new_tensor([0.0, 1.0])
    return {**checkpoint, 'state_dict': weights}


def scaled(pipeline: Sequence[dict], factor: float) -> list[dict]:
    """The pipeline with images larger by the factor.

    A `Resize` of the pipeline is changed; without one, one follows the loading.
    """
    steps = copy.deepcopy(list(pipeline))
    resizes = [step for step in steps if step['type'].split('.')[-1] == 'Resize']
    for step in resizes:
        if step.get('scale_factor'):
            step['scale_factor'] *= factor
        else:
            step['scale'] = tuple(round(side * factor) for side in step['scale'])
    if not resizes:
        loaded = next(i for i, step in enumerate(steps) if step['type'] in LOADERS)
        resize = dict(type='Resize', scale_factor=factor, keep_ratio=True)
        steps.insert(loaded + 1, resize)
    return steps


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--scales', type=float, nargs='+', default=[1, 1.5, 2])
    parser.add_argument('--choices', nargs='+', choices=(NO_CONTEXT, *RESAMPLE))
    parser.add_argument('--metrics', nargs='+', help='names of those to print')
    parser.add_argument('--work-dir')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args(argv)
    if min(args.scales) <= 0:
        parser.error(f'--scales has {min(args.scales)}; expected numbers above 0')
    return args


if __name__ == '__main__':
    main()
