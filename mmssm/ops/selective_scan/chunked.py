"""The selective scan in chunks, about 2 sqrt(L) sequential steps each way.

The sequence is cut into chunks of T positions that advance side by side.  A first pass
finds each chunk's last state from a zero start, a short loop over chunks turns these
into the true first states, and a second pass writes every state.  Decays are only ever
multiplied, never divided, so that an underflow to zero is exact enough.  The backward
pass is the same scheme run from the end.

Inside, position comes before channel, (B, L, D, N), so that a step touches rows of
contiguous channels; a channels-last input costs no copy.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def selective_scan_chunked(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor
) -> Tensor:
    """Same shapes as the naive twin; the states are laid out channels last."""
    states = _ChunkedScan.apply(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        B.permute(0, 3, 1, 2),
        delta_bias,
    )
    return states.permute(0, 2, 3, 1)


class _ChunkedScan(torch.autograd.Function):
    """u, delta: (B, L, D); A: (D, N); B: (B, L, G, N); delta_bias: (D,)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        delta_bias: Tensor,
    ) -> Tensor:
        dt = F.softplus(delta + delta_bias)
        decay = _decay(dt, A)
        h = _scan(decay, _outer(dt * u, B), 1)
        ctx.save_for_backward(u, delta, A, B, delta_bias, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        u, delta, A, B, delta_bias, h = ctx.saved_tensors
        before = delta + delta_bias
        dt = F.softplus(before)
        decay = _decay(dt, A)
        adjoint = _scan(decay, grad.clone(memory_format=torch.contiguous_format), -1)

        # h_t = exp(dt A) h_{t-1} + dt u B: first the part through dt u B
        inflow = _inner(adjoint, B)  # (B, L, D)
        grad_u = dt * inflow
        grad_B = _group(adjoint * (dt * u)[..., None], B.shape[2]).sum(3)
        # then the part through the exponent dt A, which position 0 does not have
        exponent = decay
        exponent[:, 0] = 0
        exponent[:, 1:].mul_(adjoint[:, 1:]).mul_(h[:, :-1])
        grad_A = (exponent * dt[..., None]).sum((0, 1))
        grad_dt = (exponent * A).sum(-1).addcmul_(u, inflow)
        grad_delta = torch.ops.aten.softplus_backward(grad_dt, before, 1, 20)
        return grad_u, grad_delta, grad_A, grad_B, grad_delta.sum((0, 1))


def _decay(dt: Tensor, A: Tensor) -> Tensor:
    """exp(dt A): (B, L, D, N)."""
    return (dt[..., None] * A).exp_()


def _group(x: Tensor, groups: int) -> Tensor:
    """(B, L, D, N) -> (B, L, G, D / G, N)."""
    return x.unflatten(2, (groups, -1))


def _outer(x: Tensor, B: Tensor) -> Tensor:
    """x_d B_{g(d), n}: (B, L, D), (B, L, G, N) -> (B, L, D, N)."""
    return (_group(x[..., None], B.shape[2]) * B[:, :, :, None]).flatten(2, 3)


def _inner(x: Tensor, B: Tensor) -> Tensor:
    """sum_n x_{d, n} B_{g(d), n}: (B, L, D, N), (B, L, G, N) -> (B, L, D)."""
    return (_group(x, B.shape[2]) * B[:, :, :, None]).sum(-1).flatten(2)


def chunk_length(length: int) -> int:
    """Positions per chunk: a divisor of the length near its square root, if any."""
    root = math.isqrt(length)
    for distance in range(root // 2 + 1):
        for candidate in (root - distance, root + distance):
            if length % candidate == 0:
                return candidate
    return root


def _scan(decay: Tensor, x: Tensor, direction: int) -> Tensor:
    """y_t = x_t + decay_{max(s, t)} y_s, where s is the position visited before t.

    decay, x: (B, L, D, N); direction 1 visits 0 .. L-1 and -1 the reverse.  Works in
    the storage of x.
    """
    length = x.shape[1]
    size = chunk_length(length)
    if length % size:
        tail = (0, 0, 0, 0, 0, -length % size)
        decay, x = F.pad(decay, tail), F.pad(x, tail)
    decays = decay.unflatten(1, (-1, size))  # (B, chunks, T, D, N)
    xs = x.unflatten(1, (-1, size))
    moves = list(itertools.pairwise(range(size)[::direction]))
    jumps = list(itertools.pairwise(range(xs.shape[1])[::direction]))
    start = 0 if direction == 1 else size - 1

    # the last value and the whole decay of each chunk, entered with zero
    last = xs[:, :, start].clone()
    through = torch.ones_like(last)
    for s, t in moves:
        rate = decays[:, :, max(s, t)]
        torch.addcmul(xs[:, :, t], rate, last, out=last)
        through.mul_(rate)
    # what enters each chunk from its neighbour
    for b, c in jumps:
        entering = decays[:, max(b, c), 0] * last[:, b]
        last[:, c].addcmul_(through[:, c], entering)
        xs[:, c, start].add_(entering)
    for s, t in moves:
        xs[:, :, t].addcmul_(decays[:, :, max(s, t)], xs[:, :, s])
    return x[:, :length]
