"""The selective scan as a tree, about 2 log2(L) steps each way.

A first sweep combines neighbours, then neighbours of these, and so on: position
2s k + 2s - 1 comes to hold the recurrence over its last 2s positions and the product of
their decays.  A second sweep hands the finished states down to the positions between
(Brent and Kung, "A regular layout for parallel adders", 1982).  It takes O(L) work and
memory; decays are only ever multiplied, never divided, so that one which underflows to
zero does no harm.  The backward pass is the same scan from the end.

Inside, position comes before channel, (B, L, D, N), so that a step touches rows of
contiguous channels; a channels-last input is not copied.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssm.ops.operator import differentiable


def selective_scan_tree(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor | None,
) -> Tensor:
    """Same shapes as the naive twin; the states are laid out channels last."""
    u, delta, B = u.transpose(1, 2), delta.transpose(1, 2), B.permute(0, 3, 1, 2)
    if delta_weight is None:
        states = _scan(u, delta, A, B, delta_bias)
    else:
        states = _scan_low_rank(u, delta, A, B, delta_bias, delta_weight)
    return states.permute(0, 2, 3, 1)


def _states(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor
) -> Tensor:
    """u, delta: (B, L, D); A: (D, N); B: (B, L, G, N); delta_bias: (D,)."""
    u, delta = u.contiguous(), delta.contiguous()
    dt = F.softplus(delta + delta_bias)
    h = _outer(dt * u, B).contiguous()
    scan_(_decay(dt, A), h)
    return h


def _adjoint(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, delta = u.contiguous(), delta.contiguous()
    before = delta + delta_bias
    dt = F.softplus(before)
    decay = _decay(dt, A)
    # adjoint_t = grad_t + decay_{t+1} adjoint_{t+1}
    adjoint = grad.clone(memory_format=torch.contiguous_format)
    scan_(decay[:, 1:].clone(), adjoint, backward=True)

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


def _like(u: Tensor, delta: Tensor, A: Tensor, *rest: object) -> Tensor:
    return u.new_empty((*u.shape, A.shape[1]))


def _adjoint_like(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in inputs[:-1])


_scan = differentiable(
    'mmssm::selective_scan',
    _states,
    _adjoint,
    _like,
    _adjoint_like,
    keeps_result=True,
    widens=True,
)


def _low_rank_states(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor,
) -> Tensor:
    """delta: (B, L, R); delta_weight: (D, R)."""
    return _states(u, F.linear(delta, delta_weight), A, B, delta_bias)


def _low_rank_adjoint(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor,
    delta_weight: Tensor,
    h: Tensor,
) -> list[Tensor]:
    wide = F.linear(delta, delta_weight)
    grad_u, grad_wide, *others = _adjoint(grad, u, wide, A, B, delta_bias, h)
    grad_weight = grad_wide.flatten(0, 1).mT @ delta.flatten(0, 1)
    return [grad_u, grad_wide @ delta_weight, *others, grad_weight]


def _low_rank_adjoint_like(grad: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(_adjoint_like(grad, *inputs))


_scan_low_rank = differentiable(
    'mmssm::selective_scan_low_rank',
    _low_rank_states,
    _low_rank_adjoint,
    _like,
    _low_rank_adjoint_like,
    keeps_result=True,
    widens=True,
)


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


def scan_(decay: Tensor, x: Tensor, *, backward: bool = False) -> None:
    """Solve y_t = x_t + decay_t y_{t-1} in place of x; decay is used up.

    decay, x: (B, L, ...).  backward=True solves y_t = x_t + decay_t y_{t+1} instead,
    with decay: (B, L - 1, ...), since the last position has no next one.
    """
    length = x.shape[1]
    # the first position visited never uses its decay: leave it out in both directions
    rate = decay if backward else decay[:, 1:]

    def at(tensor: Tensor, first: int, step: int, count: int) -> Tensor:
        """Positions first, first + step, … as visited, counted from the start."""
        if backward:
            first = tensor.shape[1] - 1 - first - step * (count - 1)
        return tensor[:, first : first + step * (count - 1) + 1 : step]

    def combine(first: int, reach: int) -> int:
        """Add to positions first + 2 reach k what comes from `reach` before."""
        count = len(range(first, length, 2 * reach))
        if count:
            update = at(x, first, 2 * reach, count)
            update.addcmul_(
                at(rate, first - 1, 2 * reach, count),
                at(x, first - reach, 2 * reach, count),
            )
        return count

    reach = 1
    while 2 * reach <= length:
        count = combine(2 * reach - 1, reach)
        if count > 1:  # the first block's decay is never used
            later = at(rate, 4 * reach - 2, 2 * reach, count - 1)
            later.mul_(at(rate, 3 * reach - 2, 2 * reach, count - 1))
        reach *= 2
    while reach:
        combine(3 * reach - 1, reach)
        reach //= 2
