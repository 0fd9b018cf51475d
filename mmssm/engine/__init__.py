"""Hooks, optimizer constructors, and what the train and test tools are made of.

Importing this package registers the hooks and constructors in `mmssm.registry`.
"""

from mmssm.engine.checkpoint_hook import CheckpointHook
from mmssm.engine.checkpoints import CheckpointFitHook
from mmssm.engine.cpu import BFloat16OptimWrapper
from mmssm.engine.datasets import missing_paths
from mmssm.engine.errors import UserError
from mmssm.engine.layer_decay import LayerDecayOptimizerConstructor
from mmssm.engine.progress import ProgressHook
from mmssm.engine.randomness import ResumableRandomnessHook

__all__ = [
    'BFloat16OptimWrapper',
    'CheckpointFitHook',
    'CheckpointHook',
    'LayerDecayOptimizerConstructor',
    'ProgressHook',
    'ResumableRandomnessHook',
    'UserError',
    'missing_paths',
]
