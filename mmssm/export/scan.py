"""Scans in standard operators, for a length that is not known beforehand.

A sequence is cut into chunks of one length.  All chunks advance together, one position
a step; then the states in which chunks end are handed on, one chunk a step; then what
comes into each chunk is added, times the product of the decays until there.  Decays are
only ever multiplied, never divided.  Both loops are torch's own `scan`, which ONNX has
as an operator: a file holds one step, and a map of L positions takes
CHUNK + L / CHUNK of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.cross_scan.lines import DIRECTIONS
from mmssm.ops.precision import wide

CHUNK = 64


def linear_recurrence(decay: Tensor, x: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + x_t, h_{-1} = 0, along the first axis: (L, ...)."""
    from torch._higher_order_ops.scan import scan_op  # not in every torch

    length, *sizes = x.shape
    # one chunk more than needed: a count that may be 1 would be a special case
    count = length // CHUNK + 2
    decay, x = (_chunks(t, count, fill) for t, fill in ((decay, 1.0), (x, 0.0)))
    ones, zeros = x.new_ones(x.shape[1:]), x.new_zeros(x.shape[1:])
    *_, products, inside = scan_op(_advance, [ones, zeros], [decay, x], ())
    _, entering = scan_op(_hand_on, [zeros[0]], [products[-1], inside[-1]], ())
    h = inside + products * entering
    return h.transpose(0, 1).flatten(0, 1)[:length].unflatten(1, sizes)


def _chunks(t: Tensor, count: int, fill: float) -> Tensor:
    """(L, ...) -> (CHUNK, count, the rest).

    As one axis: the exporter's time grows with the axes whose sizes it works out.
    """
    missing = count * CHUNK - t.shape[0]
    padded = F.pad(t.flatten(1), (0, 0, 0, missing), value=fill)
    return padded.unflatten(0, (count, CHUNK)).transpose(0, 1).contiguous()


def _advance(product: Tensor, h: Tensor, decay: Tensor, x: Tensor) -> list[Tensor]:
    product, h = decay * product, decay * h + x
    return [product, h, product.clone(), h.clone()]


def _hand_on(h: Tensor, product: Tensor, end: Tensor) -> list[Tensor]:
    return [product * h + end, h.clone()]


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor
) -> Tensor:
    """As the operator: u, delta (B, L, D); B (B, L, G, N) -> (B, L, D, N)."""
    u, delta, A, B, delta_bias = wide(u, delta, A, B, delta_bias)
    u, delta, B = (t.movedim(1, 0) for t in (u, delta, B))  # (L, B, ...)
    dt = F.softplus(delta + delta_bias)
    inflow = (dt * u).unflatten(2, (B.shape[2], -1))[..., None] * B[:, :, :, None]
    h = linear_recurrence(torch.exp(dt[..., None] * A), inflow.flatten(2, 3))
    return h.movedim(0, 1).contiguous()


def selective_scan_low_rank(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor,
) -> Tensor:
    """As the operator: delta (B, L, R); delta_weight (D, R)."""
    u, delta, A, B, delta_bias, weight = wide(u, delta, A, B, delta_bias, delta_weight)
    return selective_scan(u, F.linear(delta, weight), A, B, delta_bias)


def cross_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """As the operator: u (B, H, W, D); delta (4, B, H, W, D); B, C (4, N, B, H, W).

    The four directions are one scan of four times the channels.
    """
    steps = F.softplus(delta + bias[:, None, None, None])
    decays, inflows = [], []
    for k in range(len(DIRECTIONS)):
        dt = steps[k][..., None]  # (B, H, W, D, 1)
        b = B[k].permute(1, 2, 3, 0)[:, :, :, None]  # (B, H, W, 1, N)
        decays.append(_ordered(torch.exp(dt * A[k]), k))
        inflows.append(_ordered(dt * u[..., None] * b, k))
    h = linear_recurrence(torch.stack(decays, 1), torch.stack(inflows, 1))
    y = u * D.sum(0)
    for k in range(len(DIRECTIONS)):
        states = _in_place(h[:, k], k, u.shape[1:3])  # (B, H, W, D, N)
        y = y + (states * C[k].permute(1, 2, 3, 0)[:, :, :, None]).sum(-1)
    return y.contiguous()


def _ordered(x: Tensor, k: int) -> Tensor:
    """(B, H, W, ...) -> (L, B, ...), positions in the order of direction k."""
    steps = DIRECTIONS[k]
    x = x.movedim(0, 2)  # (H, W, B, ...)
    x = (x.transpose(0, 1) if steps.axis == 1 else x).flatten(0, 1)
    return x.flip(0) if steps.backward else x


def _in_place(h: Tensor, k: int, size: torch.Size) -> Tensor:
    """The inverse of `_ordered`."""
    steps = DIRECTIONS[k]
    h = h.flip(0) if steps.backward else h
    height, width = size
    if steps.axis == 1:
        h = h.unflatten(0, (width, height)).transpose(0, 1)
    else:
        h = h.unflatten(0, (height, width))
    return h.movedim(2, 0)
