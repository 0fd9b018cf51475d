"""Separable self-attention."""

import torch.nn.functional as F
from torch import Tensor

from mmssm.ops import dispatch
from mmssm.ops.attention import elementwise
from mmssm.ops.attention.matrix import (
    mixing_matrix,
    mixing_rank,
    separable_attention_matrix,
)
from mmssm.ops.attention.naive import separable_attention_naive
from mmssm.ops.attention.positions import resample_positions
from mmssm.ops.attention.recurrent import separable_attention_recurrent
from mmssm.ops.attention.windowed import windowed_separable_attention
from mmssm.ops.precision import no_autocast, wide

__all__ = [
    'mixing_matrix',
    'mixing_rank',
    'resample_positions',
    'separable_attention',
    'windowed_separable_attention',
]

dispatch.register(
    'separable_attention',
    [
        dispatch.Implementation(
            'elementwise',
            elementwise.separable_attention_elementwise,
            why_not=elementwise.why_not,
        ),
        dispatch.Implementation('recurrent', separable_attention_recurrent),
        dispatch.Implementation('matrix', separable_attention_matrix),
        dispatch.Implementation('naive', separable_attention_naive),
    ],
    # its weighted sum
    macs=lambda x, weight, alpha, beta, masked: x.numel(),
)


def separable_attention(
    q: Tensor,
    k: Tensor,
    weight: Tensor,
    alpha: Tensor,
    beta: Tensor,
    *,
    masked: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mix positions through one weighted sum, in linear time.

        x = ReLU6(q) * k;    y_p = alpha sum_l w_l x_l + beta x_p
    (VMINet, arXiv 2501.02040).  With `masked` the sum runs over l <= p in row-major
    order.  As a matrix over positions M = alpha 1 w^T + beta I, the first part lower
    triangular if masked, which raises its rank from 1 to the number of nonzero w_l;
    see `mixing_matrix` and `mixing_rank`.

    The released code is the elementwise form without a mask.  The recurrent form, a
    running context h_l = h_{l-1} + w_l x_l, and the mask are this project's reading of
    the paper's abstract, which brings ideas of state-space models to separable
    self-attention; the released code has neither.

    q, k: (B, C, H, W).  weight: (H, W), one weight for each position, shared by the
    channels.  alpha, beta: scalars.  backend: 'elementwise' (not masked), 'recurrent'
    (a prefix sum), both linear in L; 'matrix' and 'naive', quadratic.  Returns
    (B, C, H, W) in the dtype of q * k; sums run in float32 (float64 if any parameter
    or input is), autocast or not.

    Raises ValueError for shapes that do not fit and for an unknown backend, and
    RuntimeError for a mask with the elementwise backend.
    """
    _check(q, k, weight, alpha, beta)
    with no_autocast(q):
        x = F.relu6(q) * k
        # the sums are wide, the maps stay as they are
        weight, alpha, beta, _ = wide(weight, alpha, beta, x[:0])
        inputs = (x, weight, alpha, beta, masked)
        return dispatch.choose('separable_attention', backend, *inputs)(*inputs)


def _check(q: Tensor, k: Tensor, weight: Tensor, alpha: Tensor, beta: Tensor) -> None:
    if q.dim() != 4 or 0 in q.shape:
        raise ValueError(
            f'q has shape {tuple(q.shape)}; expected (B, C, H, W) with no zero'
        )
    if k.shape != q.shape:
        raise ValueError(
            f'k has shape {tuple(k.shape)}; expected that of q, {tuple(q.shape)}'
        )
    if weight.shape != q.shape[2:]:
        raise ValueError(
            f'weight has shape {tuple(weight.shape)}; expected that of the map, '
            f'{tuple(q.shape[2:])}: `resample_positions` gives it'
        )
    for name, scalar in (('alpha', alpha), ('beta', beta)):
        if scalar.dim() != 0:
            raise ValueError(
                f'{name} has shape {tuple(scalar.shape)}; expected a scalar tensor'
            )
