"""Separable self-attention as an explicit matrix over positions."""

import torch
from torch import Tensor


def separable_attention_matrix(
    x: Tensor, weight: Tensor, alpha: Tensor, beta: Tensor, masked: bool
) -> Tensor:
    """One product with the (L, L) matrix; shapes as the naive twin, O(L^2) memory."""
    mixing = mixing_matrix(weight, alpha, beta, masked=masked)
    y = x.flatten(2).to(mixing.dtype) @ mixing.T
    return y.unflatten(2, x.shape[2:]).to(x.dtype)


def mixing_matrix(
    weight: Tensor, alpha: Tensor, beta: Tensor, *, masked: bool = False
) -> Tensor:
    """M with y = M x: alpha 1 w^T + beta I, its first part lower triangular if masked.

    weight: (H, W).  alpha, beta: scalars.  Returns (L, L), row p for output p.
    """
    w = weight.flatten()
    context = alpha * w.expand(len(w), -1)
    if masked:
        context = context.tril()
    return context + beta * torch.eye(len(w), dtype=w.dtype, device=w.device)


def mixing_rank(
    weight: Tensor, alpha: Tensor, beta: Tensor, *, masked: bool = False
) -> int:
    """Rank of `mixing_matrix`, in closed form.

    Of the context alone (beta = 0) it is 1, and with the mask the number of nonzero
    weights: the mask raises the rank.  With beta != 0 it is L, or L - 1 when an
    eigenvalue alpha w_l + beta (masked) or alpha sum_l w_l + beta (not) is 0.
    """
    if beta == 0:
        nonzero = int((alpha * weight).count_nonzero())
        return nonzero if masked else min(nonzero, 1)
    eigenvalues = alpha * (weight if masked else weight.sum()) + beta
    return weight.numel() - int((eigenvalues == 0).any())
