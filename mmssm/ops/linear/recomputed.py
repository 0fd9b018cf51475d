"""Linear attention in linear time, which keeps its inputs alone for the adjoint.

With

    a = ELU(q) + 1,  b = ELU(k) + 1,  S = mean_l R_l b_l v_l^T,  m = mean_l b_l

the result is y_p = S^T R_p a_p / n_p, n_p = a_p . m + 1e-6.  From g_p = grad_p / n_p
come the gradients of S, sum_p R_p a_p g_p^T, and of n_p, -R_p a_p . S g_p / n_p.

On a CPU samples are taken one by one, so that heads are batches of matrix products on
what lies in memory; a GPU takes many, for few launches.  Pairs of channels that turn
are complex numbers.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.linear.naive import EPS
from mmssm.ops.linear.rotation import rotary_angles
from mmssm.ops.operator import differentiable
from mmssm.ops.precision import precision

LAST = torch.channels_last
TOGETHER = 1 << 25  # numbers of a map that a GPU takes at a time


class Turn(NamedTuple):
    """Unit numbers with the angles of the rows and of the columns.

    rows: (H, 1, C / 4).  columns: (1, W, C / 4).
    """

    rows: Tensor
    columns: Tensor

    def __call__(self, x: Tensor, *, back: bool = False) -> Tensor:
        """Turn maps (..., H, W, C) in place."""
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        for half, turn in zip(pairs.chunk(2, -1), self, strict=True):
            half.mul_(turn.conj() if back else turn)
        return x


def _forward(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    turn = _turn(q, k, v)
    y = torch.empty_like(q, memory_format=LAST)
    for part, (queries, keys, values) in _samples(turn, q, k, v):
        out = y[part].permute(0, 2, 3, 1)
        a, b = _features(queries), _features(keys)
        level = _level(a, b, heads)
        state = _mean(_by_head(turn(b), heads), _by_head(values, heads))
        read = _by_head(turn(a), heads) @ state
        out.copy_(_joined(read.div_(level), out.shape))
    return y


def _adjoint(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int) -> list[Tensor]:
    turn = _turn(q, k, v)
    grads = _adjoint_like(grad, q, k, v, heads)
    for part, samples in _samples(turn, grad, q, k, v):
        results = _adjoint_of_samples(*samples, turn, heads)
        for of_map, result in zip(grads, results, strict=True):
            of_map[part].copy_(result.permute(0, 3, 1, 2))
    return grads


def _adjoint_of_samples(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, turn: Turn, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All but turn: (B, H, W, C)."""
    a, b = _features(q), _features(k)
    level = _level(a, b, heads)
    mean = _by_head(b, heads).mean(2, keepdim=True)
    slope = b.clamp_max(1)  # of ELU: 1 above 0, its value and 1 below
    turned_a, turned_b = (_by_head(turn(x), heads) for x in (a.clone(), b))
    values = _by_head(v, heads)
    state = _mean(turned_b, values)

    g = _by_head(grad, heads) / level
    of_turned = g @ state.mT
    of_level = (turned_a * of_turned).sum(-1, keepdim=True).div_(level).neg_()
    of_a = turn(_joined(of_turned, a.shape), back=True)
    of_a.add_(_joined(of_level * mean, a.shape)).mul_(a.clamp_max(1))

    of_state = _mean(turned_a, g)
    of_b = turn(_joined(values @ of_state.mT, b.shape), back=True)
    level = (_by_head(a, heads) * of_level).mean(2).flatten(1)  # (B, C)
    of_b.add_(level[:, None, None]).mul_(slope)
    return of_a, of_b, _joined(turned_b @ of_state, v.shape)


def _turn(q: Tensor, k: Tensor, v: Tensor) -> Turn:
    like = q.new_empty(0, dtype=precision(q, k, v))
    channels, height, width = q.shape[1:]
    found = []
    for half, size in enumerate([(height, 1), (1, width)]):
        angles = rotary_angles(size, channels, like).chunk(2, -1)[half]
        turn = torch.polar(torch.ones_like(angles), angles)
        found.append(turn.unflatten(0, size))
    return Turn(*found)


def _features(x: Tensor) -> Tensor:
    return F.elu(x).add_(1)


def _level(a: Tensor, b: Tensor, heads: int) -> Tensor:
    """n: (B, H, W, C), (B, H, W, C) -> (B, heads, L, 1)."""
    products = _by_head(a * b.mean((1, 2), keepdim=True), heads)
    return products.sum(-1, keepdim=True).add_(EPS)


def _mean(x: Tensor, y: Tensor) -> Tensor:
    """mean_l x_l y_l^T: (..., L, D), (..., L, D) -> (..., D, D)."""
    return x.mT @ y / x.shape[-2]


def _samples(turn: Turn, *maps: Tensor) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Parts of the batch, and of maps (B, C, H, W) these as (b, H, W, C), contiguous.

    As precise as the angles.
    """
    each, batch = _at_once(maps[0]), maps[0].shape[0]
    rows = [x.permute(0, 2, 3, 1).to(turn.rows.real.dtype) for x in maps]
    last = [x if x.stride(-1) == 1 else x.contiguous() for x in rows]
    for start in range(0, batch, each):
        part = slice(start, start + each)
        yield part, tuple(x[part] for x in last)


def _at_once(x: Tensor) -> int:
    """How many samples of (B, C, H, W)."""
    if x.device.type == 'cpu':
        return 1
    return max(1, TOGETHER // math.prod(x.shape[1:]))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, H, W, C) -> (B, heads, L, C / heads)."""
    return x.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(x: Tensor, shape: torch.Size) -> Tensor:
    """(B, heads, L, C / heads) -> (B, H, W, C)."""
    return x.transpose(1, 2).reshape(shape)


def _like(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return torch.empty_like(q, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int
) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=LAST) for x in (q, k, v)]


linear_attention_recomputed = differentiable(
    'mmssm::linear_attention', _forward, _adjoint, _like, _adjoint_like
)
