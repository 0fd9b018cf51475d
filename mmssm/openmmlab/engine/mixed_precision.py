"""Mixed precision for whole detectors and segmenters, on CPUs and GPUs.

mmcv's compiled operators (RoIAlign, NMS, deformable convolution, ...) have no
bfloat16, most have no float16 on CPUs, and coordinates of boxes do not survive either:
a step of bfloat16 between 512 and 1024 is 4 pixels.  `use_float32_ops` makes them, and
what mmdet's heads do with boxes, compute in float32 whatever the features are.  It
changes the running process only: the stock tools are as they were.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from mmssm.openmmlab.errors import UserError

DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
HALF = tuple(DTYPES.values())
# package -> methods of its classes that deal in coordinates, scores and losses
IN_FLOAT32 = {
    'mmdet.models.dense_heads': ('loss_by_feat', 'predict_by_feat'),
    'mmdet.models.roi_heads.bbox_heads': ('loss_and_target', 'predict_by_feat'),
    'mmdet.models.roi_heads.mask_heads': ('loss_and_target', 'predict_by_feat'),
    'mmdet.models.roi_heads.roi_extractors': ('forward',),
}
ALREADY = '_mmssm_float32'
WRAPPERS = ('AmpOptimWrapper', 'BFloat16OptimWrapper', 'Float16OptimWrapper')


@OPTIM_WRAPPERS.register_module()
class Float16OptimWrapper(OptimWrapper):
    """Forward passes under CPU autocast to float16, the loss scaled dynamically.

    loss_scale: 'dynamic', the only choice.  A step whose gradients overflow is left out
    and the scale halved.
    """

    def __init__(self, loss_scale: str = 'dynamic', **options: object) -> None:
        super().__init__(**options)
        if loss_scale != 'dynamic':
            raise ValueError(f"loss_scale is {loss_scale!r}; expected 'dynamic'")
        self.loss_scaler = torch.amp.GradScaler('cpu')

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.float16):
            yield

    def backward(self, loss: Tensor, **options: object) -> None:
        self.loss_scaler.scale(loss).backward(**options)
        self._inner_count += 1

    def step(self, **options: object) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **options)
        self.loss_scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'loss_scaler': self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        scaler = state_dict.pop('loss_scaler', None)
        if scaler:
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)


def choose_dtype(kind: str = 'auto') -> torch.dtype:
    """kind: 'bf16', 'fp16', or 'auto': bfloat16 on CPUs and GPUs that have it."""
    if kind in DTYPES:
        return DTYPES[kind]
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def enable_amp(cfg: Config, kind: str = 'auto') -> None:
    """Train in mixed precision; kind: 'auto', 'bf16' or 'fp16', see `choose_dtype`.

    A dtype that the config's own AmpOptimWrapper asks for goes before 'auto'.
    Raises UserError for a config whose optimizer wrapper is another one.
    """
    optim = cfg.optim_wrapper
    found = optim.get('type', 'OptimWrapper')
    if found not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(
            f'--amp needs optim_wrapper.type OptimWrapper; the config has {found}'
        )
    name = str(choose_dtype(kind)).removeprefix('torch.')
    if kind == 'auto' and optim.get('dtype') is not None:
        name = optim.dtype
    for option in ('dtype', 'loss_scale'):
        optim.pop(option, None)
    if torch.cuda.is_available():
        # bfloat16 has the range of float32: a scale of 1 does nothing
        scale = 'dynamic' if name == 'float16' else 1.0
        optim.update(type='AmpOptimWrapper', dtype=name, loss_scale=scale)
    elif name == 'float16':
        optim.type = 'Float16OptimWrapper'
    else:
        optim.type = 'BFloat16OptimWrapper'


def autocast(kind: str | None) -> AbstractContextManager:
    """For evaluation; kind: see `choose_dtype`, None computes in the model's dtype."""
    if kind is None:
        return nullcontext()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.autocast(device, choose_dtype(kind))


def use_float32_ops() -> None:
    """Make mmcv's compiled operators and mmdet's work on boxes float32.

    Half-precision arguments reach an operator as float32 copies; what it writes into an
    argument is rounded back.  Maps and boxes that a RoI extractor, or the losses and
    predictions of a head, get become float32 before anchors, points or RoIs are made in
    their dtype.  Calling it again changes nothing; without mmcv's compiled operators or
    mmdet there is nothing to do.
    """
    extension = _found('mmcv._ext')
    for name, op in list(vars(extension).items()) if extension else ():
        if callable(op) and not name.startswith('_') and not hasattr(op, ALREADY):
            setattr(extension, name, _on_copies(op))
    for package, methods in IN_FLOAT32.items():
        for kind in _classes(_found(package)):
            for name in methods:
                method = vars(kind).get(name)
                if method is not None and not hasattr(method, ALREADY):
                    setattr(kind, name, _on_float32(method))


def _classes(module: Any) -> set[type]:
    """Those that a package exports, with what they inherit from."""
    exported = (
        [c for c in vars(module).values() if isinstance(c, type)] if module else []
    )
    return {base for kind in exported for base in kind.__mro__}


def _found(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:  # absent, or broken, which its first user is told
        return None


def _on_copies(op: Callable) -> Callable:
    """`op` on float32 copies of arguments in half precision, which it may write to."""

    @functools.wraps(op)
    def run(*args: Any, **kwargs: Any) -> Any:
        copies: list[tuple[Tensor, Tensor]] = []

        def widened(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dtype in HALF:
                copies.append((value, value.float()))
                return copies[-1][1]
            return value

        result = op(
            *(widened(value) for value in args),
            **{name: widened(value) for name, value in kwargs.items()},
        )
        for value, wide in copies:
            with torch.no_grad():
                value.copy_(wide)
        return result

    setattr(run, ALREADY, True)
    return run


def _on_float32(method: Callable) -> Callable:
    """A method outside of autocast, its half-precision arguments in float32."""

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _float32(args), _float32(kwargs)
        with contextlib.ExitStack() as stack:
            for device in {'cpu', 'cuda' if torch.cuda.is_available() else 'cpu'}:
                stack.enter_context(torch.autocast(device, enabled=False))
            return method(self, *args, **kwargs)

    setattr(run, ALREADY, True)
    return run


def _float32(value: Any) -> Any:
    """Tensors in half precision as float32, in lists, tuples and dicts too."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF else value
    if type(value) is dict:  # a config stays what it is
        return {name: _float32(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_float32(part) for part in value)
    return value
