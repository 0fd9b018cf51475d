"""Selective scan that returns every state."""

from torch import Tensor

from mmssm.ops import counting, dispatch, trial
from mmssm.ops.precision import no_autocast, widened
from mmssm.ops.scan.naive import selective_scan_naive
from mmssm.ops.scan.tree import selective_scan_tree

__all__ = ['selective_scan']


def _small(randn: trial.Draw) -> tuple:
    """Arguments for a first try."""
    u, delta = randn(2, 1, 300, 6).mT
    return u, delta, -randn(6, 1).exp(), randn(1, 1, 1, 300), randn(6), None


dispatch.register(
    'selective_scan',
    [
        trial.kernels(
            'selective_scan',
            'mmssm.ops.scan.triton:selective_scan_triton',
            selective_scan_tree,
            _small,
        ),
        dispatch.Implementation('tree', selective_scan_tree),
        dispatch.Implementation('naive', widened(selective_scan_naive)),
    ],
    # 7 B L D N, the count of the published tables, and a product for the delta
    counting.Cost(
        macs=lambda u, delta, A, B, bias, weight: (
            7 * u.numel() * A.shape[1]
            + (0 if weight is None else delta.numel() * weight.shape[0])
        ),
        zeros=lambda u, delta, A, *rest: u.new_zeros(
            *u.shape[:2], A.shape[1], u.shape[2]
        ),
    ),
)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    *,
    delta_weight: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """All states of a discretised diagonal state-space model.

        dt_t = softplus(delta_t + delta_bias)
        h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,    h_{-1} = 0
    (Mamba, arXiv 2312.00752, equation 2a with the simplified discretisation of B;
    Spatial-Mamba, arXiv 2410.15091, uses the states themselves).  softplus is the
    identity above 20.

    u: (B, D, L), input.  delta: (B, D, L), step before the softplus.
    A: (D, N), negative for a decaying state.  B: (B, G, N, L), D a multiple of G,
    channel d uses group d // (D / G); (B, N, L) means one group.
    delta_bias: (D,).
    delta_weight: (D, R) where the step is of low rank: delta, (B, R, L), stands for
    delta_weight @ delta, which is not kept for the backward pass.
    Returns (B, D, N, L), in float64 if any input is float64 and in float32 otherwise,
    autocast or not.  Memory is O(B D N L).
    backend: 'triton', the default on a GPU; 'tree', the default elsewhere; 'naive',
    the definition.

    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    if B.dim() == 3:
        B = B.unsqueeze(1)
    _check(u, delta, A, B, delta_bias, delta_weight)
    run = dispatch.choose('selective_scan', backend, u, delta, A, B, delta_bias)
    with no_autocast(u):
        if delta_bias is None:
            delta_bias = A.new_zeros(A.shape[0])
        return run(u, delta, A, B, delta_bias, delta_weight)


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_weight: Tensor | None,
) -> None:
    if u.dim() != 3 or 0 in u.shape:
        raise ValueError(
            f'u has shape {tuple(u.shape)}; expected (B, D, L) with no zero'
        )
    batch, channels, length = u.shape
    if delta_weight is not None:
        rank = delta.shape[1] if delta.dim() == 3 else 'R'
        if delta_weight.shape != (channels, rank):
            raise ValueError(
                f'delta_weight has shape {tuple(delta_weight.shape)}; expected '
                f'(D={channels}, R={rank})'
            )
        expected = (batch, rank, length)
    else:
        expected = (batch, channels, length)
    if delta.shape != expected:
        raise ValueError(f'delta has shape {tuple(delta.shape)}; expected {expected}')
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f'A has shape {tuple(A.shape)}; expected (D={channels}, N)')
    states = A.shape[1]
    fits = B.dim() == 4 and (B.shape[0], *B.shape[2:]) == (batch, states, length)
    if not fits or channels % B.shape[1]:
        raise ValueError(
            f'B has shape {tuple(B.shape)}; expected (B={batch}, G, N={states}, '
            f'L={length}) with G a divisor of D={channels}'
        )
    if delta_bias is not None and delta_bias.shape != (channels,):
        raise ValueError(
            f'delta_bias has shape {tuple(delta_bias.shape)}; expected (D={channels},)'
        )
