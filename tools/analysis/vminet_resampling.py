"""How much VMINet's outputs change when the same image is padded or scaled.

    python tools/analysis/vminet_resampling.py [--arch xs] [--checkpoint FILE]

Each row is a choice for `VMINet(resample=...)`; 'no context' sets alpha to 0, so that
what remains comes from the convolutions.  A padded image keeps its pixels at the top
left of a larger map of zeros, and features are compared where the image is.  A scaled
image shows the same content in other pixels, and features are compared after resizing
to the grid of the training size.  Numbers are norms of the difference over the norm of
the features at the training size, averaged over the stages and the images.

Without a checkpoint the weights are random, with small residuals and batch norms
calibrated on the images, and --positions says what the position weights look like.
"""

import argparse
import copy
import json
import os
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.backbones import VMINet
from mmssm.layers import SeparableAttention
from mmssm.layers.separable_attention import RESAMPLE

PADDINGS = (8 / 7, 3 / 2, 2)
SCALES = (1 / 2, 5 / 4, 3 / 2, 2, 3)
NO_CONTEXT = 'no context'


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    if args.checkpoint and not os.path.isfile(args.checkpoint):
        sys.exit(f'vminet_resampling: there is no checkpoint at {args.checkpoint}')
    torch.manual_seed(args.seed)
    init = {'type': 'Pretrained', 'checkpoint': args.checkpoint}
    model = VMINet(
        arch=args.arch,
        train_size=args.train_size,
        init_cfg=init if args.checkpoint else None,
    )
    scenes = random_scenes(args.images, round(max(SCALES) * args.train_size))
    if args.checkpoint:
        model.init_weights()
    else:
        draw_positions(model, args.positions)
        scale_residuals(model, 0.2)
        calibrate(model, resize(scenes, 1 / max(SCALES)))
    print(f'{"":12}' + ''.join(f'  pad {p:4.2f}' for p in PADDINGS), end='')
    print(''.join(f'  x {s:4.2f}' for s in SCALES))
    for choice in (NO_CONTEXT, *RESAMPLE):
        values = changes(with_choice(model, choice).eval(), scenes)
        padded, scaled = values[: len(PADDINGS)], values[len(PADDINGS) :]
        print(f'{choice:12}' + ''.join(f'{v:10.3f}' for v in padded), end='')
        print(''.join(f'{v:8.3f}' for v in scaled), flush=True)


def with_choice(model: VMINet, choice: str) -> VMINet:
    """A copy of the model that treats other sizes by the choice."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, SeparableAttention):
            if choice == NO_CONTEXT:
                nn.init.zeros_(module.mix[:1])
            else:
                module.resample = choice
    return model


@torch.no_grad()
def changes(model: VMINet, scenes: Tensor) -> list[float]:
    """Relative change for every padding, then for every scale.

    scenes: (B, 3, s, s) at the largest scale.
    """
    images = resize(scenes, 1 / max(SCALES))
    reference = model(images)
    found = []
    for factor in PADDINGS:
        margin = round(images.shape[-1] * (factor - 1))
        padded = model(F.pad(images, (0, margin, 0, margin)))
        views = [
            new[:, :, : old.shape[2], : old.shape[3]]
            for new, old in zip(padded, reference, strict=True)
        ]
        found.append(relative_change(views, reference))
    for factor in SCALES:
        scaled = model(resize(scenes, factor / max(SCALES)))
        views = [
            F.interpolate(new, old.shape[2:], mode='bilinear', antialias=True)
            for new, old in zip(scaled, reference, strict=True)
        ]
        found.append(relative_change(views, reference))
    return found


def relative_change(new: Sequence[Tensor], old: Sequence[Tensor]) -> float:
    """Mean over stages and images of |new - old| / |old|."""
    ratios = [
        (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
        for a, b in zip(new, old, strict=True)
    ]
    return torch.stack(ratios).mean().item()


def random_scenes(count: int, side: int) -> Tensor:
    """(count, 3, side, side): noise with the 1 / f amplitude of natural images."""
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    frequency = (rows**2 + columns**2).sqrt().clamp_min(1 / side)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, side, side)) / frequency
    scenes = torch.fft.irfft2(spectrum, s=(side, side))
    mean = scenes.mean((2, 3), keepdim=True)
    return (scenes - mean) / scenes.std((2, 3), keepdim=True)


def resize(images: Tensor, factor: float) -> Tensor:
    """(B, C, H, W) with both sides times the factor."""
    side = round(images.shape[-1] * factor)
    return F.interpolate(images, (side, side), mode='bicubic', antialias=True)


@torch.no_grad()
def draw_positions(model: VMINet, kind: str) -> None:
    """Position weights as initialised ('noise'), or a smooth field as large."""
    if kind == 'noise':
        return
    for module in model.modules():
        if isinstance(module, SeparableAttention):
            size = tuple(module.position.shape)
            coarse = torch.randn(1, 1, *(min(n, 4) for n in size))
            field = F.interpolate(coarse, size, mode='bicubic')[0, 0]
            module.position.copy_(0.02 * field / field.square().mean().sqrt())


@torch.no_grad()
def scale_residuals(model: VMINet, gain: float) -> None:
    """Norm gain that closes each block; at 1 a random network amplifies any change."""
    for stage in model.stages:
        for block in stage.blocks:
            block.project.norm.weight.fill_(gain)


@torch.no_grad()
def calibrate(model: VMINet, images: Tensor) -> None:
    """Running statistics of the batch norms from these images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    model.train()(images)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--arch', type=_arch, default='xs', help='name, or a dict as JSON'
    )
    parser.add_argument('--checkpoint', help='official or our file; default: random')
    parser.add_argument('--train-size', type=int, default=224)
    parser.add_argument('--positions', choices=('noise', 'smooth'), default='noise')
    parser.add_argument('--images', type=int, default=4)
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args(argv)


def _arch(text: str) -> str | dict[str, object]:
    return json.loads(text) if text.startswith('{') else text


if __name__ == '__main__':
    main()
