"""Repeat the training step whose loss was not finite.

    python tools/analysis/replay_batch.py CONFIG FILE [--amp [bf16|fp16]]

FILE is what `mmssm-train --on-nan stop` has saved: a batch, and the weights before the
step.  Runs the forward pass of the config's model under the same seed, in one process
on a CPU.  Prints every loss, the first module whose result is not finite though what it
was given is, and values that are not finite in the batch itself.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmssm.openmmlab.errors import UserError, stop_without
from mmssm.weights import load_file

try:
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.structures import BaseDataElement

    from mmssm.openmmlab.engine import configs, mixed_precision
    from mmssm.openmmlab.engine.batches import from_plain
    from mmssm.openmmlab.engine.randomness import seed_all
except ModuleNotFoundError as error:
    stop_without('replay_batch', error)


def main(argv: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('file')
    parser.add_argument(
        '--amp', nargs='?', const='auto', choices=['auto', 'bf16', 'fp16']
    )
    args = parser.parse_args(argv)
    try:
        losses, module, places = replay(args.config, args.file, args.amp)
    except (UserError, ValueError, FileNotFoundError) as error:
        raise SystemExit(f'replay_batch: {error}') from None
    for name, value in losses.items():
        print(f'{name}: {value}')
    print(f'not finite in the batch: {", ".join(places) or "nothing"}')
    print(f'first module whose result is not finite: {module or "none"}')


def replay(
    config: str, file: str, amp: str | None = None
) -> tuple[dict[str, float], str | None, list[str]]:
    """Losses by name, the first module that gave NaN, and the places in the batch."""
    saved = load_file(file)
    if not {'meta', 'batch', 'state_dict'} <= saved.keys():
        raise UserError(f'{file} is no batch that --on-nan stop has saved')
    cfg = configs.read_config(config)
    if amp:
        mixed_precision.use_float32_ops()
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
        model.load_state_dict(saved['state_dict'])
        batch = from_plain(saved['batch'])
        found: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_hook(_noting(name, found))
        meta = saved['meta']
        seed_all(meta['seed'], meta['rank'], meta['iter'] - 1)
        places = [place for place, _ in _broken(batch, 'batch')]
        with mixed_precision.autocast(amp):
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
        _, parts = model.parse_losses(losses)
    values = {name: float(value) for name, value in parts.items()}
    return values, found[0] if found else None, places


def _noting(name: str, found: list[str]):
    def hook(module: nn.Module, given: object, result: object) -> None:
        if any(_broken(result, '')) and not any(_broken(given, '')):
            found.append(f'{name or "the model"} ({type(module).__name__})')

    return hook


def _broken(value: object, place: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors with values that are not finite, and where they stand."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and not torch.isfinite(value).all():
            yield place, value
    elif isinstance(value, (Mapping, BaseDataElement)):
        for name, part in value.items():
            yield from _broken(part, f'{place}.{name}')
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _broken(part, f'{place}[{index}]')


if __name__ == '__main__':
    main()
