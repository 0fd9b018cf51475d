"""Parameters and multiply-accumulates of a config's model and of its parts.

    python tools/analysis/get_flops.py CONFIG
    python tools/analysis/get_flops.py CONFIG --shape 512 512

One image of height and width --shape goes through the model, by default 800 x 1280 for
a detector and 512 x 2048 for a segmenter, as in the published tables.  A multiplication
with its addition counts one; `mmssm.analysis.flops` has the formulas of the operators.  A
two-stage detector is counted with as many proposals as its config allows.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmssm.analysis.flops import Count, count_macs, counting
from mmssm.openmmlab.engine.configs import DETECTION, read_config, task_scope

SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048)}


class Sizes(NamedTuple):
    """Of a model: parameters, and multiply-accumulates for one image."""

    shape: tuple[int, int]
    parameters: int
    backbone_parameters: int
    model: Count
    backbone: Count


def sizes(cfg: Config, shape: tuple[int, int] | None = None) -> Sizes:
    """Of the model of a config; shape: (height, width)."""
    scope = task_scope(cfg)
    shape = shape or SHAPES[scope]
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(build(cfg))
    model.eval()
    images = torch.zeros(1, 3, *shape)
    with counting() as read, torch.no_grad():
        model(images, [_sample(scope, shape)], mode='tensor')
    return Sizes(
        shape,
        _parameters(model),
        _parameters(model.backbone),
        read(),
        count_macs(model.backbone, images.shape),
    )


def build(cfg: Config) -> nn.Module:
    """The model, which suppresses no proposal."""
    proposals = (cfg.model.get('test_cfg') or {}).get('rpn')
    if proposals:
        proposals.nms.iou_threshold = 1.0
    return MODELS.build(cfg.model)


def _sample(scope: str, shape: tuple[int, int]) -> object:
    """What a model reads about an image without labels."""
    if scope == DETECTION:
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    about = dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
    return Sample(metainfo=dict(about, scale_factor=(1.0, 1.0)))


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'))
    args = parser.parse_args(arguments)
    MMLogger.get_current_instance().setLevel('ERROR')
    shape = tuple(args.shape) if args.shape else None
    found = sizes(read_config(args.config), shape)
    print(f'one image of {found.shape[0]} x {found.shape[1]}')
    for name, parameters, count in (
        ('model', found.parameters, found.model),
        ('backbone', found.backbone_parameters, found.backbone),
    ):
        print(f'{name:22}{parameters / 1e6:9.2f} M {count.total / 1e9:10.3f} G')
        for op, macs in count.ops.items():
            print(f'  {op:20}{"":11} {macs / 1e9:10.3f} G')


if __name__ == '__main__':
    main()
