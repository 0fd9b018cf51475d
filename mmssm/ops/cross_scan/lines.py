"""The scan in four directions on the map as it lies, line by line.

A line is what a direction visits without a turn: a row for directions 0 and 2, a column
for 1 and 3.  All lines advance together, one position a step, as slices of the map: no
direction needs a copy of it in another order.  A first walk finds what each line does
to a state, a product of decays and an end; these maps, composed over the lines, give
the states in which lines begin, and a second walk fills in all states.  Decays are only
ever multiplied, never divided.

What is done at every position by itself is done a block of positions at a time, small
enough for the cache of a core.  The backward pass computes the states anew, so that
nothing but the inputs is kept for it.

Inside, channels are last: u is (B, H, W, D), and what each direction has of its own is
one plane of a tensor (4, ...).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmssm.ops.operator import differentiable
from mmssm.ops.scan.tree import scan_

BLOCK = 1 << 16  # numbers of a block: 256 KiB of float32


def cross_scan_lines(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """Same shapes as the naive twin; the result lies channels last."""
    y = _scan(
        u.permute(0, 2, 3, 1),
        delta.permute(1, 0, 3, 4, 2),
        A,
        B.permute(1, 2, 0, 3, 4),
        C.permute(1, 2, 0, 3, 4),
        D,
        bias,
    )
    return y.permute(0, 3, 1, 2)


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """u: (B, H, W, D).  delta: (4, B, H, W, D).  B, C: (4, N, B, H, W)."""
    u = u.contiguous()
    y = u * D.sum(0)
    dt, decay, h = (torch.empty_like(u) for _ in range(3))
    for k, steps in enumerate(DIRECTIONS):
        plane = delta[k].contiguous()
        for n in range(A.shape[2]):
            rate, b, c = A[k, :, n], B[k, n], C[k, n]
            _inputs(plane, bias[k], u, rate, b, dt, decay, h, again=n > 0)
            steps.fill(decay, h)
            for out, state, at in _blocks(y, h, c):
                out.addcmul_(state, at)
    return y


def _adjoint(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
) -> list[Tensor]:
    u, grad = u.contiguous(), grad.contiguous()
    grad_u = grad * D.sum(0)
    grad_D = (grad * u).sum((0, 1, 2)).repeat(4, 1)
    grad_delta, grad_B, grad_C = (t.new_empty(t.shape) for t in (delta, B, C))
    grad_A, grad_bias = (t.new_zeros(t.shape) for t in (A, bias))
    dt, decay, h, adjoint = (torch.empty_like(u) for _ in range(4))
    for k, steps in enumerate(DIRECTIONS):
        plane = delta[k].contiguous()
        grad_dt = grad_delta[k].zero_()
        for n in range(A.shape[2]):
            rate, b, c = A[k, :, n], B[k, n], C[k, n]
            _inputs(plane, bias[k], u, rate, b, dt, decay, h, again=n > 0)
            whole = steps.fill(decay, h)
            for out, g, at in _blocks(adjoint, grad, c):
                torch.mul(g, at, out=out)
            steps.fill_back(decay, adjoint, h, whole)
            of_B, of_C = grad_B[k, n], grad_C[k, n]
            for parts in _blocks(
                grad, u, dt, b, decay, adjoint, h, grad_u, grad_dt, of_B, of_C
            ):
                grad_A[k, :, n] += _collect(rate, *parts)
        for g, before in _blocks(grad_dt, plane):
            before = before + bias[k]
            g.copy_(torch.ops.aten.softplus_backward(g, before, 1, 20))
            grad_bias[k] += g.sum(0)
    return [grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias]


def _like(u: Tensor, *rest: Tensor) -> Tensor:
    return u.new_empty(u.shape)


def _adjoint_like(grad: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in inputs]


_scan = differentiable('mmssm::cross_scan', _forward, _adjoint, _like, _adjoint_like)


class Steps(NamedTuple):
    """A direction: which axis of (B, H, W, D) a line runs along, and which way.

    Backwards, lines are visited from the last to the first, too.
    """

    axis: int
    backward: bool

    def of(self, plane: Tensor) -> list[Tensor]:
        """The positions of all lines, (B, lines, D), in the order of their visit."""
        slices = plane.unbind(self.axis)
        return list(reversed(slices)) if self.backward else list(slices)

    def fill(self, decay: Tensor, h: Tensor) -> Tensor:
        """Solve h_t = h_t + decay_t h_{t-1} in place of h.

        Returns the product of the decays of each line, (B, lines, D).
        """
        rates, states = self.of(decay), self.of(h)
        whole, end = rates[0].clone(), states[0].clone()
        for rate, x in zip(rates[1:], states[1:], strict=True):
            torch.addcmul(x, rate, end, out=end)
            whole.mul_(rate)
        last = _entered(whole.clone(), end, self.backward)
        for rate, x in zip(rates, states, strict=True):
            last = x.addcmul_(rate, last)
        return whole

    def fill_back(
        self, decay: Tensor, adjoint: Tensor, h: Tensor, whole: Tensor
    ) -> None:
        """Solve a_t = a_t + decay_{t+1} a_{t+1} in place of the adjoint a.

        decay becomes the gradient of the decays' logarithms, decay_t a_t h_{t-1}.
        whole: used up.
        """
        rates, grads, states = (self.of(t)[::-1] for t in (decay, adjoint, h))
        flow = rates[0] * grads[0]
        for rate, g in zip(rates[1:], grads[1:], strict=True):
            flow.add_(g).mul_(rate)
        flow = _entered(whole, flow, not self.backward)
        for i, (rate, g) in enumerate(zip(rates, grads, strict=True)):
            g.add_(flow)
            if i:
                flow.mul_(states[i])
            flow = rate.mul_(g)
        flow.mul_(_neighbours(states[0], self.backward))


DIRECTIONS = [Steps(axis, backward) for backward in (False, True) for axis in (2, 1)]


def _entered(whole: Tensor, end: Tensor, backward: bool) -> Tensor:
    """The states in which lines begin, all in (B, lines, D); whole, end: used up.

    whole, end: a line that begins with state s ends with end + whole s.
    """
    scan_(whole[:, :-1] if backward else whole, end, backward=backward)
    return _neighbours(end, backward)


def _neighbours(x: Tensor, backward: bool) -> Tensor:
    """What the line visited before has; zeros for the first one.  (B, lines, D)."""
    result = torch.zeros_like(x)
    if backward:
        result[:, :-1] = x[:, 1:]
    else:
        result[:, 1:] = x[:, :-1]
    return result


def _inputs(
    delta: Tensor,
    bias: Tensor,
    u: Tensor,
    rate: Tensor,
    b: Tensor,
    dt: Tensor,
    decay: Tensor,
    x: Tensor,
    *,
    again: bool,
) -> None:
    """Fill dt = softplus(delta + bias), decay = exp(dt rate) and x = dt u b.

    again: dt is there already.
    """
    for d, v, at, step, a, out in _blocks(delta, u, b, dt, decay, x):
        if not again:
            torch.add(d, bias, out=step)
            torch.ops.aten.softplus.out(step, out=step)
        torch.mul(step, rate, out=a).exp_()
        torch.mul(step, v, out=out).mul_(at)


def _collect(
    rate: Tensor,
    grad: Tensor,
    u: Tensor,
    dt: Tensor,
    b: Tensor,
    exponent: Tensor,
    adjoint: Tensor,
    h: Tensor,
    grad_u: Tensor,
    grad_dt: Tensor,
    grad_B: Tensor,
    grad_C: Tensor,
) -> Tensor:
    """Add to the gradients of u and dt, fill those of B and C, return that of rate.

    All are blocks; exponent, adjoint and h are used up.
    """
    torch.sum(h.mul_(grad), 1, keepdim=True, out=grad_C)
    # h_t = exp(dt rate) h_{t-1} + dt u b: first the part through dt u b
    torch.mul(dt, u, out=h).mul_(adjoint)
    torch.sum(h, 1, keepdim=True, out=grad_B)
    inflow = adjoint.mul_(b)
    grad_u.addcmul_(dt, inflow)
    grad_dt.addcmul_(u, inflow)
    # then the part through the exponent dt rate
    grad_dt.addcmul_(exponent, rate)
    return exponent.mul_(dt).sum(0)


def _blocks(first: Tensor, *others: Tensor) -> Iterator[list[Tensor]]:
    """The same positions of every map, (positions, D) or, where D is left out, 1."""
    channels = first.shape[-1]
    flat = [first.view(-1, channels)]
    for other in others:
        flat.append(other.reshape(flat[0].shape[0], -1))
    count = max(1, BLOCK // channels)
    for start in range(0, flat[0].shape[0], count):
        yield [t[start : start + count] for t in flat]
