"""The operators on the map of a first stage, each against its naive twin."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mmssm import ops
from tools.benchmarks.case import Case, Prepared, Setting, passes
from tools.benchmarks.parity_gate import largest_error, passed_back

Size = tuple[int, int]


class Op(NamedTuple):
    """An operator with the inputs that the layer of its paper gives it.

    inputs: for a map (batch, channels, height,
    width), in float32.  channels: of a first stage.
    """

    inputs: Callable[[int, int, int, int], list[Tensor]]
    channels: int


def cases(group: str) -> list[Case]:
    """One case for each op that the package has; another revision may lack some."""
    return [
        Case(f'{group}/{name}', partial(_prepare, name), partial(_gate, name))
        for name in OPS
        if hasattr(ops, name)
    ]


def _prepare(name: str, setting: Setting) -> Prepared:
    op, function = OPS[name], getattr(ops, name)
    torch.manual_seed(0)
    dtype = getattr(torch, setting.dtype)
    inputs = [
        _leaf(x.to(setting.device, dtype))
        for x in op.inputs(setting.batch, op.channels, *setting.map_size)
    ]
    run = torch.compile(function) if setting.compiled else function
    work = passes(lambda: run(*inputs), inputs, setting._replace(dtype='float32'))
    traffic = scan_traffic(inputs) if name == 'selective_scan' else None
    if setting.mode == 'training':
        traffic = None
    return Prepared(work, traffic=traffic)


def scan_traffic(inputs: Sequence[Tensor]) -> int:
    """Bytes of u, delta and B, which are read, and of h, which is written in float32.

    What the definition asks for; steps and decays in between are the algorithm's.
    """
    u, delta, A, B, _ = inputs
    states = 4 * u.numel() * A.shape[1]
    return states + sum(x.numel() * x.element_size() for x in (u, delta, B))


def _gate(name: str, device: str) -> float:
    op, run = OPS[name], getattr(ops, name)
    torch.manual_seed(0)
    inputs = [_leaf(x.to(device, torch.float64)) for x in op.inputs(2, 8, 7, 9)]
    fast = passed_back(lambda: run(*inputs), inputs)
    naive = passed_back(lambda: run(*inputs, backend='naive'), inputs)
    return largest_error(fast, naive)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _scan_inputs(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    """One state per channel, channels last, as in Spatial-Mamba."""
    length = height * width
    u, delta = torch.randn(2, batch, length, channels).transpose(2, 3)
    A = -torch.rand(channels, 1)
    return [u, delta, A, torch.randn(batch, 1, length), torch.randn(channels) - 4]


def _cross_scan_inputs(
    batch: int, channels: int, height: int, width: int
) -> list[Tensor]:
    """One state per channel, channels last, as in VMamba."""
    u = torch.randn(batch, height, width, channels).permute(0, 3, 1, 2)
    delta = torch.randn(4, batch, height, width, channels).permute(1, 0, 4, 2, 3)
    A, D = -torch.rand(4, channels, 1), torch.randn(4, channels)
    B, C = torch.randn(2, batch, 4, 1, height, width)
    return [u, delta, A, B, C, D, torch.randn(4, channels) - 4]


def _fusion_inputs(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    h = torch.randn(batch, height, width, channels).permute(0, 3, 1, 2)
    return [h, torch.randn(3, channels, 1, 3, 3), torch.randn(3)]


def _observation_inputs(
    batch: int, channels: int, height: int, width: int
) -> list[Tensor]:
    h, *parameters = _fusion_inputs(batch, channels, height, width)
    C = torch.randn(batch, 1, height, width)
    return [h, C, torch.randn_like(h), torch.randn(channels), *parameters]


def _attention_inputs(
    batch: int, channels: int, height: int, width: int
) -> list[Tensor]:
    q, k = torch.randn(2, batch, channels, height, width)
    return [q, k, torch.randn(height, width), torch.tensor(0.7), torch.tensor(1.2)]


def _linear_inputs(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    maps = torch.randn(3, batch, height, width, channels).permute(0, 1, 4, 2, 3)
    return list(maps)


def _filter_inputs(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    """16 states, one SSM in each of 4 directions."""
    A, B = torch.sigmoid(0.2 * torch.randn(6, 4, 16)).split([4, 2])
    C = torch.randn(2, 4, channels, 16)
    return [torch.randn(batch, channels, height, width), A, B, C]


def _gate_inputs(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    maps = torch.randn(2, batch, height, width, channels).permute(0, 1, 4, 2, 3)
    return [*maps, *torch.randn(2, channels)]


def _conv_inputs(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    x = torch.randn(batch, height, width, channels).permute(0, 3, 1, 2)
    return [x, torch.randn(channels, 1, 3, 3), torch.randn(channels)]


# By the names of their functions in `mmssm.ops`
OPS = {
    'selective_scan': Op(_scan_inputs, 128),
    'cross_scan': Op(_cross_scan_inputs, 96),
    'state_fusion': Op(_fusion_inputs, 128),
    'observe': Op(_observation_inputs, 128),
    'gated_norm': Op(_gate_inputs, 128),
    'depthwise_conv': Op(_conv_inputs, 128),
    'separable_attention': Op(_attention_inputs, 96),
    'linear_attention': Op(_linear_inputs, 64),
    'ssm2d': Op(_filter_inputs, 96),
}
