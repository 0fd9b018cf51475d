"""Parameters and multiply-accumulates of a model and of its parts.

    mmssm-flops CONFIG [--shape 800 1280] [--cfg-options KEY=VALUE ...]
    mmssm-flops spatial_mamba_tiny

One image of height and width --shape goes through the model: by default 800 x 1280 for
a detector and 512 x 2048 for a segmenter, as in the published tables, one of its tests
for a classifier, and 224 x 224 for a model of the zoo, which needs torch only.  A
multiplication with its addition counts one; `mmssm.analysis.flops` has the formulas of
the operators.  A two-stage detector is counted with as many proposals as its config
allows.

A line for each module follows, down to --depth names; 0 leaves the table out.  What a
module computes beside the modules in it has a line NAME.(itself).
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmssm import zoo
from mmssm.analysis.flops import Count, count_macs, counting, macs_per_module
from mmssm.openmmlab.cli import add_config
from mmssm.openmmlab.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

SHAPES = {
    'mmdet': (800, 1280),
    'mmseg': (512, 2048),
    'mmpretrain': (224, 224),
    'zoo': (224, 224),
}


class Sizes(NamedTuple):
    """Of a model: parameters, and multiply-accumulates for one image."""

    shape: tuple[int, int]
    parameters: int
    backbone_parameters: int
    model: Count
    backbone: Count


class OneImage(nn.Module):
    """A model of OpenMMLab as a function of one image without labels."""

    def __init__(self, model: nn.Module, sample: object) -> None:
        super().__init__()
        self.model = model
        self.sample = sample

    def forward(self, images: Tensor) -> object:
        return self.model(images, [self.sample], mode='tensor')


def sizes(cfg: 'Config', shape: tuple[int, int] | None = None) -> Sizes:
    """Of the model of a config; shape: (height, width)."""
    model, shape = build(cfg, shape)
    return measure(model, model.model.backbone, shape)


def measure(model: nn.Module, backbone: nn.Module, shape: tuple[int, int]) -> Sizes:
    """Of a model and of its backbone."""
    images = torch.zeros(1, channels(backbone), *shape)
    with counting() as read, torch.no_grad():
        model.eval()(images)
    return Sizes(
        shape,
        _parameters(model),
        _parameters(backbone),
        read(),
        count_macs(backbone, images.shape),
    )


def channels(backbone: nn.Module) -> int:
    """How many channels its first convolution takes; 3 for networks without one."""
    convolutions = (m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    return next((m.in_channels for m in convolutions), 3)


def build(
    cfg: 'Config', shape: tuple[int, int] | None
) -> tuple[OneImage, tuple[int, int]]:
    """The model of a config, which suppresses no proposal, and the shape."""
    from mmengine.logging import MMLogger
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, DefaultScope

    from mmssm.openmmlab.engine.configs import task_scope

    MMLogger.get_current_instance().setLevel('ERROR')
    scope = task_scope(cfg)
    shape = shape or default_shape(cfg)
    proposals = (cfg.model.get('test_cfg') or {}).get('rpn')
    if proposals:
        proposals.nms.iou_threshold = 1.0
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    return OneImage(model, _sample(scope, shape)), shape


def default_shape(cfg: 'Config') -> tuple[int, int]:
    """The usual (height, width) of the task; of a classifier that of its tests."""
    from mmssm.openmmlab.classifying import side_of
    from mmssm.openmmlab.engine.configs import CLASSIFICATION, task_scope

    scope = task_scope(cfg)
    side = side_of(cfg) if scope == CLASSIFICATION else None
    return (side, side) if side else SHAPES[scope]


def _sample(scope: str, shape: tuple[int, int]) -> object:
    """What a model reads about an image without labels."""
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    elif scope == 'mmpretrain':
        from mmpretrain.structures import DataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    about = dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
    return Sample(metainfo=dict(about, scale_factor=(1.0, 1.0)))


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def is_name(name: str, options: Mapping[str, object] | None) -> bool:
    """Whether it is one of the zoo's, not a config file.

    Raises UserError for what is neither, and for options of a name.
    """
    if name in zoo.MODELS:
        if options:
            raise UserError(f'--cfg-options change a config; {name} is a name')
        return True
    if not name.endswith('.py') and not Path(name).is_file():
        close = difflib.get_close_matches(name, zoo.list_models(), n=1)
        hint = f' Did you mean {close[0]}?' if close else ''
        raise UserError(
            f'{name} is neither a config file nor a model.{hint} Models are '
            f'{", ".join(zoo.list_models())}'
        )
    return False


def find(
    name: str, options: Mapping[str, object] | None, shape: tuple[int, int] | None
) -> tuple[nn.Module, nn.Module, tuple[int, int]]:
    """The model that a config or a name stands for, its backbone, and the shape.

    Raises UserError for what is neither, and for options of a name.
    """
    if is_name(name, options):
        model = zoo.create_model(name)
        return model, model.backbone, shape or SHAPES['zoo']
    from mmssm.openmmlab.engine import config_keys, configs, explaining

    cfg = configs.read_config(name, options)
    configs.require(cfg)
    with explaining.explained(cfg):
        config_keys.check_config(cfg)
        model, shape = build(cfg, shape)
    return model, model.model.backbone, shape


def main(argv: Sequence[str] | None = None, name: str | None = None) -> None:
    """See the description of the module."""
    parser = argparse.ArgumentParser(
        prog=name,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser, 'a config file, or a model of mmssm.list_models()')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument(
        '--depth', type=int, default=3, help='of the names in the table (3)'
    )
    args = parser.parse_args(argv)
    if args.shape and min(args.shape) < 1:
        raise UserError(f'--shape is {args.shape}; expected numbers from 1')
    model, backbone, shape = find(
        args.config, args.cfg_options, tuple(args.shape) if args.shape else None
    )
    found = measure(model, backbone, shape)
    print(f'one image of {found.shape[0]} x {found.shape[1]}')
    for part, parameters, count in (
        ('model', found.parameters, found.model),
        ('backbone', found.backbone_parameters, found.backbone),
    ):
        print(f'{part:22}{parameters / 1e6:9.2f} M {count.total / 1e9:10.3f} G')
        for op, macs in count.ops.items():
            print(f'  {op:20}{"":11} {macs / 1e9:10.3f} G')
    if args.depth > 0:
        print_table(model, shape, args.depth)


def print_table(model: nn.Module, shape: tuple[int, int], depth: int) -> None:
    """Parameters and multiply-accumulates of the modules whose names are not deeper."""
    outside = 'model.' if isinstance(model, OneImage) else ''
    # a detector looks at its proposals, which have no values on 'meta'
    device = 'cpu' if outside else 'meta'
    taken = channels(model.model.backbone if outside else model)
    rows = [
        row._replace(name=row.name.removeprefix(outside))
        for row in macs_per_module(model, (1, taken, *shape), device)
        if row.name.startswith(outside)
    ]
    shown = [row for row in rows if row.name.count('.') < depth]
    shown = [row for row in shown if row.name and row.params + row.macs]
    width = max(len(row.name) for row in shown)
    print(f'\n{"module":{width}}  {"type":20} {"parameters":>12} {"MACs":>16}')
    for name, kind, parameters, macs in shown:
        print(f'{name:{width}}  {kind[:20]:20} {parameters:12,} {macs:16,}')
