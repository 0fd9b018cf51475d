"""A model in operators that every runtime has: what is swapped, and what is rewritten.

Layers that a recorded graph cannot hold for every size are swapped in a copy of the
model.  Operators of this package stay whole in the graph of `torch.export`;
`decompositions` says what each of them is made of.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmssm.export import scan
from mmssm.export.filter import StandardFilter
from mmssm.export.pooling import StandardPool
from mmssm.layers import SSM2D
from mmssm.ops.precision import wide


def standard_form(
    model: nn.Module, example: Tensor | None = None, *, dynamic: bool = True
) -> nn.Module:
    """A copy of the model in evaluation mode, ready for `torch.export`.

    dynamic: maps may have any size; otherwise those that `example` gives.
    Raises ValueError where a layer cannot be exported, see `StandardFilter`.
    """
    model = copy.deepcopy(model)
    model.eval()  # some of mmdet's return nothing
    model.requires_grad_(False)
    sizes = {} if dynamic else _map_sizes(model, example)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, SSM2D):
            swapped: nn.Module = StandardFilter(module, sizes.get(module))
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            swapped = StandardPool(module.output_size)
        else:
            continue
        if not name:
            return swapped.eval()
        parent, _, child = name.rpartition('.')
        setattr(model.get_submodule(parent), child, swapped.eval())
    return model


def _map_sizes(model: nn.Module, example: Tensor) -> dict[nn.Module, tuple[int, int]]:
    """Height and width of the maps of each 2-D SSM."""
    sizes = {}

    def note(module: nn.Module, inputs: Sequence[Tensor]) -> None:
        sizes[module] = tuple(inputs[0].shape[2:])

    layers = [m for m in model.modules() if isinstance(m, SSM2D)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    if layers:
        with torch.no_grad():
            model(example)
    for hook in hooks:
        hook.remove()
    return sizes


def _observe(
    h: Tensor,
    C: Tensor | None,
    u: Tensor | None,
    D: Tensor | None,
    taps: Tensor,
    dilations: Sequence[int],
) -> Tensor:
    """C * fusion(h) + D * u; without C, u and D the fusion alone."""
    given = [t for t in (h, C, u, D, taps) if t is not None]
    h, *others, taps = wide(*given)
    reach = max(dilations)
    bordered = F.pad(h, (reach,) * 4, mode='replicate')
    _, _, height, width = bordered.shape
    y = None
    for weight, d in zip(taps, dilations, strict=True):
        cut = reach - d
        view = bordered[:, :, cut : height - cut, cut : width - cut]
        near = F.conv2d(view, weight, dilation=d, groups=h.shape[1])
        y = near if y is None else y + near
    if others:
        C, u, D = others
        y = C * y + D[:, None, None] * u
    return y.contiguous(memory_format=torch.channels_last)


def decompositions() -> dict[Callable, Callable]:
    """What every operator of the package that a backbone may hold is made of."""
    ops = torch.ops.mmssm
    return {
        ops.selective_scan.default: scan.selective_scan,
        ops.selective_scan_low_rank.default: scan.selective_scan_low_rank,
        ops.cross_scan.default: scan.cross_scan,
        ops.observe.default: _observe,
    }


class apart(TorchFunctionMode):
    """Operators of the package run as what they are made of.

    The exporter could take them apart later, in its own way; that runs the whole graph
    twice more, and sizes that are not known make every run take long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made = decompositions()

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is Tensor.to and len(args) == 2 and args[0].dtype == args[1]:
            return args[0]  # a conversion that changes nothing
        return self.made.get(func, func)(*args, **(kwargs or {}))
