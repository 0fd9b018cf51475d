"""The operators with the inputs, the exact results and the rivals that they get."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm import ops
from mmssm.ops import dispatch

Shape = tuple[int, int, int, int]  # (B, C, H, W)
EPS = 1e-5


class Op(NamedTuple):
    """An operator of the package.

    function: its name in `mmssm.ops`.  inputs: for a shape, a dtype of the maps and a
    device.  exact: the same in plain torch, trusted in double.  options: of both.
    """

    function: str
    inputs: Callable[[Shape, torch.dtype, str], list[Tensor]]
    exact: Callable[..., Tensor]
    options: dict[str, object] = {}

    @property
    def absent(self) -> bool:
        """Whether this version of the package lacks it."""
        return not hasattr(ops, self.function)

    def kernels(self, *inputs: Tensor) -> Tensor:
        """By Triton's kernels; raises RuntimeError where they cannot run."""
        run = getattr(ops, self.function)
        options = dict(self.options)
        if 'backend' in inspect.signature(run).parameters:
            options['backend'] = 'triton'
        return run(*inputs, **options)


def draw(*size: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers, a leaf."""
    return torch.randn(size, device=device, dtype=dtype).requires_grad_()


def draw_map(shape: Shape, dtype: torch.dtype, device: str) -> Tensor:
    """A leaf (B, C, H, W) with channels contiguous in memory."""
    batch, channels, height, width = shape
    drawn = torch.randn(batch, height, width, channels, device=device, dtype=dtype)
    return drawn.permute(0, 3, 1, 2).requires_grad_()


def scan_inputs(shape: Shape, dtype: torch.dtype, device: str) -> list[Tensor]:
    """u, delta, A, B, delta_bias; the last and A stay in float32 under autocast."""
    batch, channels, *size = shape
    u, delta = (
        draw_map(shape, dtype, device).detach().flatten(2).requires_grad_()
        for _ in range(2)
    )
    A = (-draw(channels, 1, device=device).exp()).detach().requires_grad_()
    B = draw(batch, 1, 1, math.prod(size), device=device, dtype=dtype)
    bias = (draw(channels, device=device) - 4).detach().requires_grad_()
    return [u, delta, A, B, bias]


def fusion_inputs(shape: Shape, dtype: torch.dtype, device: str) -> list[Tensor]:
    """h, which a scan gives in float32, kernels, alpha."""
    h = draw_map(shape, torch.float32, device)
    return [h, draw(3, shape[1], 1, 3, 3, device=device), draw(3, device=device)]


def observation_inputs(shape: Shape, dtype: torch.dtype, device: str) -> list[Tensor]:
    """h, C, u, D, kernels, alpha."""
    h, *parameters = fusion_inputs(shape, dtype, device)
    C = draw(shape[0], 1, *shape[2:], device=device, dtype=dtype)
    u, D = draw_map(shape, dtype, device), draw(shape[1], device=device)
    return [h, C, u, D, *parameters]


def gate_inputs(shape: Shape, dtype: torch.dtype, device: str) -> list[Tensor]:
    """y as an observation gives it, z, weight, bias."""
    y = draw_map(shape, _observed(dtype), device)
    z = draw_map(shape, dtype, device)
    return [y, z, draw(shape[1], device=device), draw(shape[1], device=device)]


def conv_inputs(shape: Shape, dtype: torch.dtype, device: str) -> list[Tensor]:
    """x, weight, bias; parameters stay in float32 under autocast."""
    return [
        draw_map(shape, dtype, device),
        draw(shape[1], 1, 3, 3, device=device),
        draw(shape[1], device=device),
    ]


def filter_inputs(shape: Shape, dtype: torch.dtype, device: str) -> list[Tensor]:
    """x, A, B, C: 16 states, one SSM in each of 4 directions."""
    A = torch.sigmoid(0.2 * draw(4, 4, 16, device=device)).detach().requires_grad_()
    B = torch.sigmoid(0.2 * draw(2, 4, 16, device=device)).detach().requires_grad_()
    C = draw(2, 4, shape[1], 16, device=device)
    return [draw_map(shape, dtype, device), A, B, C]


def _observed(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which an observation comes, for a scan's input in dtype."""
    inputs = observation_inputs((1, 2, 3, 3), dtype, 'cpu')
    return ops.observe(*inputs).dtype


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm(y) * SiLU(z) in plain torch, as autocast runs it."""
    y, z = (t.permute(0, 2, 3, 1) for t in (y, z))
    normed = F.layer_norm(y.to(weight.dtype), weight.shape, weight, bias, EPS)
    return (normed * F.silu(z)).to(z.dtype).permute(0, 3, 1, 2)


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str | None = None,
    residual: bool = False,
) -> Tensor:
    """By cuDNN on a GPU, in the dtype and the memory format of x."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    y = F.conv2d(x, weight, bias, padding=1, groups=x.shape[1])
    if activation == 'silu':
        y = F.silu(y)
    return x + y if residual else y


def _by(function: str, *backends: str) -> Callable[..., Tensor]:
    """An op by the first of the backends that it has, else by its last one."""

    def run(*inputs: Tensor) -> Tensor:
        known = [i.name for i in dispatch.registered()[function]]
        chosen = next((name for name in backends if name in known), known[-1])
        return getattr(ops, function)(*inputs, backend=chosen)

    return run


SILU, RESIDUAL = {'activation': 'silu'}, {'residual': True}
OPS = {
    'scan': Op('selective_scan', scan_inputs, _by('selective_scan', 'tree')),
    'observe': Op('observe', observation_inputs, _by('observe', 'naive')),
    'gated norm': Op('gated_norm', gate_inputs, gated_norm, {'eps': EPS}),
    'conv + SiLU': Op(
        'depthwise_conv', conv_inputs, partial(depthwise_conv, **SILU), SILU
    ),
    'x + conv': Op(
        'depthwise_conv', conv_inputs, partial(depthwise_conv, **RESIDUAL), RESIDUAL
    ),
    'fusion': Op('state_fusion', fusion_inputs, _by('state_fusion', 'naive')),
    'ssm2d': Op('ssm2d', filter_inputs, _by('ssm2d', 'tiled')),
}


def results(
    run: Callable[..., Tensor], inputs: list[Tensor], like: torch.dtype | None = None
) -> list[Tensor]:
    """The result and all gradients, for a cotangent that has the digits of `like`."""
    y = run(*inputs)
    generator = torch.Generator(y.device).manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, device=y.device)
    cotangent = cotangent.to(like or y.dtype).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, cotangent)]


def doubled(inputs: list[Tensor]) -> list[Tensor]:
    """The same values in float64, leaves again."""
    return [t.detach().double().requires_grad_() for t in inputs]


@contextmanager
def plain_torch() -> Iterator[None]:
    """Every op by its first form in plain torch, whatever backend is asked for."""
    before = dispatch.registered()
    for op, known in before.items():
        plain = next(i for i in known if i.name != 'triton')
        stand_ins = [plain._replace(name=i.name) for i in known]
        dispatch.register(op, stand_ins)
    try:
        yield
    finally:
        for op, known in before.items():
            dispatch.register(op, known)


def bytes_of(*tensors: Tensor) -> int:
    """Of distinct values."""
    return sum(t.numel() * t.element_size() for t in tensors)
