"""Registries of the scope `mmssm`, children of mmengine's.

A config of any scope reaches them with the prefix: `type='mmssm.SpatialMamba'`.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmssm', locations=['mmssm.backbones']
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
