"""Hooks, optimizer constructors, and what the train and test tools are made of.

Importing this package registers the hooks and constructors in `mmssm.registry`.
"""

from mmssm.openmmlab.engine.compiling import CompileHook
from mmssm.openmmlab.engine.cpu import BFloat16OptimWrapper
from mmssm.openmmlab.engine.gradients import GradientCheckHook
from mmssm.openmmlab.engine.layer_decay import LayerDecayOptimizerConstructor
from mmssm.openmmlab.engine.loading import CheckpointFitHook
from mmssm.openmmlab.engine.mixed_precision import Float16OptimWrapper
from mmssm.openmmlab.engine.non_finite import NonFiniteLossHook
from mmssm.openmmlab.engine.paths import missing_paths
from mmssm.openmmlab.engine.progress import ProgressHook
from mmssm.openmmlab.engine.randomness import ResumableRandomnessHook
from mmssm.openmmlab.engine.saving import CheckpointHook
from mmssm.openmmlab.engine.self_distillation import MESAHook
from mmssm.openmmlab.engine.stopping import StopHook
from mmssm.openmmlab.errors import UserError

__all__ = [
    'BFloat16OptimWrapper',
    'CheckpointFitHook',
    'CheckpointHook',
    'CompileHook',
    'Float16OptimWrapper',
    'GradientCheckHook',
    'LayerDecayOptimizerConstructor',
    'MESAHook',
    'NonFiniteLossHook',
    'ProgressHook',
    'ResumableRandomnessHook',
    'StopHook',
    'UserError',
    'missing_paths',
]
