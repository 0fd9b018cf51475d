"""Linear attention with rotary encoding."""

import torch
from torch import Tensor

from mmssm.ops import dispatch
from mmssm.ops.linear.matrix import attention_matrix, linear_attention_matrix
from mmssm.ops.linear.naive import linear_attention_naive
from mmssm.ops.linear.plain import linear_attention_plain
from mmssm.ops.linear.recomputed import linear_attention_recomputed
from mmssm.ops.linear.rotation import rotary_angles, rotate
from mmssm.ops.precision import no_autocast, widened

__all__ = ['attention_matrix', 'linear_attention', 'rotary_angles', 'rotate']


def _macs(q: Tensor, k: Tensor, v: Tensor, heads: int) -> int:
    """The levels, the states of the heads, and what queries read of them."""
    return q.numel() + 2 * q.numel() * (q.shape[1] // heads)


def _recorded(*inputs: object) -> bool:
    """Whether torch's own operators are to be seen, which can be exported and fused."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled()


dispatch.register(
    'linear_attention',
    [
        dispatch.Implementation(
            'recomputed',
            linear_attention_recomputed,
            suits=lambda *inputs: not _recorded(),
        ),
        dispatch.Implementation('plain', widened(linear_attention_plain)),
        dispatch.Implementation('matrix', widened(linear_attention_matrix)),
        dispatch.Implementation('naive', widened(linear_attention_naive)),
    ],
    macs=_macs,
)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Mix positions through the product of keys and values, in linear time.

        a = ELU(q) + 1;    b = ELU(k) + 1;    S = mean_l R_l b_l v_l^T
        y_p = S^T R_p a_p / (a_p . mean_l b_l + 1e-6)
    for the channels of each head (linear attention: arXiv 2006.16236; without its mask
    and with the rotation R it is that of MILA, arXiv 2405.16605).  R_p turns pairs of
    channels by angles that follow from the row and the column of p, see
    `rotary_angles`: half of all C channels turn with the rows and half with the
    columns, whatever the heads, and the map may have any size.  What divides is not
    turned.  As a matrix over positions see `attention_matrix`.

    q, k, v: (B, C, H, W), C a multiple of 4 and of heads.  Returns (B, C, H, W) in q's
    dtype; computed in float64 if any input is and in float32 otherwise, autocast or
    not.
    backend: 'recomputed', the default, saves q, k and v alone for the adjoint; 'plain'
    is made of torch's own operators, the default where a graph is recorded without
    gradients; both are linear in L.  'matrix' and 'naive' are quadratic.

    Raises ValueError for shapes or heads that do not fit and for an unknown backend.
    """
    _check(q, k, v, heads)
    run = dispatch.choose('linear_attention', backend, q, k, v, heads)
    with no_autocast(q):
        return run(q, k, v, heads).to(q.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, heads: int) -> None:
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(
            f'q has shape {tuple(q.shape)}; expected (B, C, H, W) with no zero'
        )
    for name, value in (('k', k), ('v', v)):
        if value.shape != q.shape:
            raise ValueError(
                f'{name} has shape {tuple(value.shape)}; expected that of q, '
                f'{tuple(q.shape)}'
            )
    if q.shape[1] % 4:
        raise ValueError(
            f'q has {q.shape[1]} channels; expected a multiple of 4: pairs of channels '
            'turn, half of them with the rows and half with the columns'
        )
    if not isinstance(heads, int) or heads < 1 or q.shape[1] % heads:
        raise ValueError(
            f'heads is {heads!r}; expected a divisor of the {q.shape[1]} channels'
        )
