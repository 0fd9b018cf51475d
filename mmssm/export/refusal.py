"""What cannot be exported, known before time is spent on it."""

from importlib.util import find_spec

from torch import nn

from mmssm.layers import ExponentialMovingAverage, SeparableAttention

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


def refuse_sizes(model: nn.Module) -> None:
    """Raise ValueError for layers whose graph depends on the size of the maps."""
    for name, module in model.named_modules():
        if isinstance(module, ExponentialMovingAverage):
            reason = 'takes an FFT of a length that suits the map'
        elif isinstance(module, SeparableAttention) and module.resample == 'window':
            reason = "cuts maps into a number of windows (resample='window')"
        else:
            continue
        raise ValueError(
            f'{name or "the model"}, {type(module).__name__}, {reason}, which a graph '
            'for any size cannot hold; export for one size (dynamic=False)'
        )


def refuse_without_packages() -> None:
    """Raise ModuleNotFoundError where ONNX files cannot be written or run."""
    if names := missing():
        raise ModuleNotFoundError(
            f'{", ".join(names)} is not installed; ONNX needs '
            f"{', '.join(PACKAGES)}: pip install 'mmssm[onnx]'",
            name=names[0],
        )


def missing() -> list[str]:
    """Packages of `PACKAGES` that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]
