"""Linear attention in linear time, which keeps its inputs alone for the adjoint.

With

    a = ELU(q) + 1,  b = ELU(k) + 1,  S = mean_l R_l b_l v_l^T,  m = mean_l b_l

the result is y_p = S^T R_p a_p / n_p, n_p = a_p . m + 1e-6.  From g_p = grad_p / n_p
come the gradients of S, sum_p R_p a_p g_p^T, and of n_p, -R_p a_p . S g_p / n_p.

Samples are taken one by one, so that heads are batches of matrix products on what lies
in memory.  Pairs of channels that turn are complex numbers.
"""

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


class Turn(NamedTuple):
    """Unit numbers with the angles of the rows and of the columns.

    rows: (H, 1, C / 4).  columns: (1, W, C / 4).
    """

    rows: Tensor
    columns: Tensor

    def __call__(self, x: Tensor, *, back: bool = False) -> Tensor:
        """Turn a map (H, W, C) in place."""
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        for half, turn in zip(pairs.chunk(2, -1), self, strict=True):
            half.mul_(turn.conj() if back else turn)
        return x


def _forward(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    turn = _turn(q, k, v)
    y = torch.empty_like(q, memory_format=LAST)
    for out, (queries, keys, values) in zip(
        y.permute(0, 2, 3, 1), _samples(turn, q, k, v), strict=True
    ):
        a, b = _features(queries), _features(keys)
        level = _level(a, b, heads)
        state = _mean(_by_head(turn(b), heads), _by_head(values, heads))
        read = _by_head(turn(a), heads) @ state
        out.copy_(_joined(read.div_(level), out.shape))
    return y


def _adjoint(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int) -> list[Tensor]:
    turn = _turn(q, k, v)
    grads = _adjoint_like(grad, q, k, v, heads)
    for index, sample in enumerate(_samples(turn, grad, q, k, v)):
        results = _adjoint_of_sample(*sample, turn, heads)
        for of_map, result in zip(grads, results, strict=True):
            of_map[index].copy_(result.permute(2, 0, 1))
    return grads


def _adjoint_of_sample(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, turn: Turn, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All but turn: (H, W, C)."""
    a, b = _features(q), _features(k)
    level = _level(a, b, heads)
    mean = _by_head(b, heads).mean(1, keepdim=True)
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
    of_b.add_((_by_head(a, heads) * of_level).mean(1).flatten()).mul_(slope)
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
    """n: (H, W, C), (H, W, C) -> (heads, L, 1)."""
    products = _by_head(a * b.mean((0, 1)), heads)
    return products.sum(-1, keepdim=True).add_(EPS)


def _mean(x: Tensor, y: Tensor) -> Tensor:
    """mean_l x_l y_l^T: (heads, L, D), (heads, L, D) -> (heads, D, D)."""
    return x.mT @ y / x.shape[1]


def _samples(turn: Turn, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Every sample of maps (B, C, H, W) as (H, W, C), as precise as the angles."""
    rows = [x.permute(0, 2, 3, 1).to(turn.rows.real.dtype) for x in maps]
    last = [x if x.stride(-1) == 1 else x.contiguous() for x in rows]
    yield from zip(*last, strict=True)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(H, W, C) -> (heads, L, C / heads)."""
    return x.flatten(0, 1).unflatten(-1, (heads, -1)).transpose(0, 1)


def _joined(x: Tensor, shape: torch.Size) -> Tensor:
    """(heads, L, C / heads) -> (H, W, C)."""
    return x.transpose(0, 1).reshape(shape)


def _like(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return torch.empty_like(q, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int
) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=LAST) for x in (q, k, v)]


linear_attention_recomputed = differentiable(
    'mmssm::linear_attention', _forward, _adjoint, _like, _adjoint_like
)
