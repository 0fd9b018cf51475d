"""The one door between the science of the package and OpenMMLab.

A config of any scope reaches what stands here with the prefix `mmssm`, as in
`type='mmssm.SpatialMamba'`: the registries are children of mmengine's, which imports
this module when a config names the scope.  `BACKBONES` are the backbones of downstairs,
registered with the neck of their classifiers, `NormedPooling`; hooks and constructors
of `mmssm.openmmlab.engine` register themselves.
"""

import logging

from mmcv.cnn import build_norm_layer
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import initialize
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import Registry
from torch import nn

from mmssm.backbones import (
    MILA,
    ConvNeXt,
    Mega,
    SpatialMamba,
    VMamba,
    VMINet,
    hierarchical,
)
from mmssm.hosts import SSM2DHost, ssm2d_host
from mmssm.layers import NormedPooling, norms
from mmssm.openmmlab import released

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmssm', locations=['mmssm.registry']
)
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='mmssm', locations=['mmssm.openmmlab.engine']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmssm',
    locations=['mmssm.openmmlab.engine'],
)
BACKBONES = (ConvNeXt, Mega, MILA, SpatialMamba, SSM2DHost, VMamba, VMINet)


class _ToMMEngine(logging.Handler):
    """Hands what the package logs to the logger of the run."""

    def emit(self, record: logging.LogRecord) -> None:
        print_log(record.getMessage(), logger='current', level=record.levelno)


def _build(config: dict) -> nn.Module:
    return MODELS.build(ConfigDict(config))


def _mmcv_norm(norm_cfg: dict, channels: int) -> nn.Module:
    return build_norm_layer(norm_cfg, channels)[1]


for _backbone in BACKBONES:
    MODELS.register_module(module=_backbone)
MODELS.register_module(module=NormedPooling)
norms.OTHERS.append(_mmcv_norm)
hierarchical.INITIALIZE = initialize
ssm2d_host.BUILD = _build
released.offer()
_log = logging.getLogger('mmssm')
_log.setLevel(logging.INFO)
_log.addHandler(_ToMMEngine())
