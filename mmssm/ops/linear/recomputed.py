"""Linear attention in linear time, which keeps its inputs alone for the adjoint.

Features, rotations and the state are computed again in the backward pass.  Samples are
taken one by one, so that heads are batches of matrix products on what lies in memory.
With

    a = ELU(q) + 1,  b = ELU(k) + 1,  S = mean_l R_l b_l v_l^T,  n_p = a_p . mean_l b_l

the result is y_p = S^T R_p a_p / (n_p + 1e-6), and from g_p = grad_p / (n_p + 1e-6)
come the gradients of S, sum_p R_p a_p g_p^T, and of n_p, -R_p a_p . S g_p divided by
n_p + 1e-6.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.linear.naive import EPS
from mmssm.ops.linear.rotation import rotary_angles
from mmssm.ops.operator import differentiable
from mmssm.ops.precision import precision

LAST = torch.channels_last


def _forward(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    turn = _turn(q, k, v)
    y = torch.empty_like(q, memory_format=LAST)
    for out, *sample in zip(_rows(y), _rows(q), _rows(k), _rows(v), strict=True):
        a, b, values = (x.to(turn.real.dtype) for x in sample)
        a, b = _features(a), _features(b)
        level = _level(a, b, heads)
        turned_a, turned_b = _rotated(a, turn), _rotated(b, turn)
        state = _by_head(turned_b, heads).mT @ _by_head(values, heads) / len(turn)
        result = _by_head(turned_a, heads) @ state / level.T[..., None]
        out.unflatten(-1, (heads, -1)).copy_(result.transpose(0, 1))
    return y


def _adjoint(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int) -> list[Tensor]:
    turn = _turn(q, k, v)
    grads = [torch.empty_like(x, memory_format=LAST) for x in (q, k, v)]
    for *outs, g, a, b, values in zip(
        *map(_rows, grads), *map(_rows, (grad, q, k, v)), strict=True
    ):
        wide = (x.to(turn.real.dtype) for x in (g, a, b, values))
        results = _sample_adjoint(*wide, turn, heads)
        for out, result in zip(outs, results, strict=True):
            out.copy_(result)
    return grads


def _sample_adjoint(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, turn: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All but turn: (L, C)."""
    length = len(turn)
    a, b = _features(q), _features(k)
    level = _level(a, b, heads)
    mean = b.mean(0)
    slope_a, slope_b = a.clamp_max(1), b.clamp_max(1)  # of ELU: 1, or its result + 1
    turned_b, values = _by_head(_rotated(b, turn), heads), _by_head(v, heads)
    state = turned_b.mT @ values / length  # (heads, C / heads, C / heads)

    g = (grad.unflatten(-1, (heads, -1)) / level[..., None]).transpose(0, 1)
    turned_a = _rotated(a, turn)
    of_turned_a = _joined(g @ state.mT)
    of_state = _by_head(turned_a, heads).mT @ g / length
    of_a = _rotated(of_turned_a, turn.conj())
    of_b = _rotated(_joined(values @ of_state.mT), turn.conj())
    of_v = _joined(turned_b @ of_state)

    read = (turned_a * of_turned_a).unflatten(-1, (heads, -1)).sum(-1)
    of_level = -(read / level)[..., None]
    of_mean = (of_level * a.unflatten(-1, (heads, -1))).sum(0).flatten() / length
    spread = of_level * mean.unflatten(-1, (heads, -1))
    of_a = of_a.add_(spread.flatten(1)).mul_(slope_a)
    return of_a, of_b.add_(of_mean).mul_(slope_b), of_v


def _turn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Unit numbers with the rotary angles, (L, C / 2), complex."""
    like = q.new_empty(0, dtype=precision(q, k, v))
    angles = rotary_angles(q.shape[2:], q.shape[1], like)
    return torch.polar(torch.ones_like(angles), angles)


def _features(x: Tensor) -> Tensor:
    return F.elu(x).add_(1)


def _rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Pairs of channels are complex numbers: (L, C), (L, C / 2) -> (L, C)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


def _level(a: Tensor, b: Tensor, heads: int) -> Tensor:
    """n + 1e-6: (L, C), (L, C) -> (L, heads)."""
    mean = b.mean(0).unflatten(-1, (heads, -1))
    return torch.einsum('lhd,hd->lh', a.unflatten(-1, (heads, -1)), mean).add_(EPS)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, L, C), a view of a map that lies channels last."""
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(L, C) -> (heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def _joined(x: Tensor) -> Tensor:
    """(heads, L, C / heads) -> (L, C)."""
    return x.transpose(0, 1).flatten(1)


def _like(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return torch.empty_like(q, memory_format=LAST)


def _adjoint_like(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int
) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=LAST) for x in (q, k, v)]


linear_attention_recomputed = differentiable(
    'mmssm::linear_attention', _forward, _adjoint, _like, _adjoint_like
)
