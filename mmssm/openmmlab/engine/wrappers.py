"""The model behind what data parallelism wraps around it."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, however many wrappers of mmengine's are around it."""
    while is_model_wrapper(model):
        model = model.module
    return model
