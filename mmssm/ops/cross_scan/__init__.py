"""The selective scan of a map in four directions."""

from torch import Tensor

from mmssm.ops import counting, dispatch
from mmssm.ops.cross_scan.lines import cross_scan_lines
from mmssm.ops.cross_scan.naive import cross_scan_naive
from mmssm.ops.cross_scan.sequences import cross_scan_sequences
from mmssm.ops.precision import no_autocast, precision, widened

__all__ = ['cross_scan']

DIRECTIONS = 4


def _macs(u: Tensor, delta: Tensor, A: Tensor, *rest: Tensor) -> int:
    """B L (9 D N + D) in each direction, the count of the published tables."""
    return DIRECTIONS * u.numel() * (9 * A.shape[2] + 1)


dispatch.register(
    'cross_scan',
    [
        dispatch.Implementation(
            'lines',
            widened(cross_scan_lines),
            suits=lambda u, *rest: not u.is_cuda,
        ),
        dispatch.Implementation('sequences', cross_scan_sequences),
        dispatch.Implementation('naive', widened(cross_scan_naive)),
    ],
    counting.Cost(
        macs=_macs,
        zeros=lambda *inputs: inputs[0].new_zeros(
            inputs[0].shape, dtype=precision(*inputs)
        ),
    ),
)


def cross_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Scan a map in four directions and add up what is observed in each.

        dt_k,t = softplus(delta_k,t + delta_bias_k)
        h_k,t = exp(dt_k,t A_k) h_k,t-1 + dt_k,t B_k,t u_t,    h_k,-1 = 0
        y_p = sum_k (C_k,p h_k,p + D_k u_p)
    (SS2D of VMamba, arXiv 2401.10166, section 4.2; the recurrence is equation 2 of
    Mamba, arXiv 2312.00752, as in `selective_scan`.)  t counts positions along the
    rows for k = 0, along the columns for k = 1, and both backwards, from the last
    position to the first, for k = 2 and 3.

    u: (B, D, H, W), input.  delta: (B, 4, D, H, W), steps before the softplus, at the
    positions of the map, whatever order a direction visits them in, as are B and C:
    (B, 4, N, H, W).  A: (4, D, N), negative for a decaying state.  D: (4, D).
    delta_bias: (4, D).  Returns (B, D, H, W), in float64 if any input is float64 and in
    float32 otherwise, autocast or not.
    backend: 'lines', the default on a CPU, scans the map as it lies and keeps nothing
    but the inputs for its adjoint; 'sequences', the default on a GPU, is
    `selective_scan`, on the map in each direction's order in turn; 'naive', the
    definition.

    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    run = dispatch.choose('cross_scan', backend, u, delta, A, B, C, D, delta_bias)
    with no_autocast(u):
        if delta_bias is None:
            delta_bias = D.new_zeros(D.shape)
        return run(u, delta, A, B, C, D, delta_bias)


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor | None,
) -> None:
    if u.dim() != 4 or 0 in u.shape:
        raise ValueError(
            f'u has shape {tuple(u.shape)}; expected (B, D, H, W) with no zero'
        )
    batch, channels, *size = u.shape
    states = A.shape[-1] if A.dim() == 3 and A.shape[-1] else 'N'
    expected = {
        'delta': (delta, (batch, DIRECTIONS, channels, *size)),
        'A': (A, (DIRECTIONS, channels, states)),
        'B': (B, (batch, DIRECTIONS, states, *size)),
        'C': (C, (batch, DIRECTIONS, states, *size)),
        'D': (D, (DIRECTIONS, channels)),
        'delta_bias': (delta_bias, (DIRECTIONS, channels)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and value.shape != shape:
            raise ValueError(
                f'{name} has shape {tuple(value.shape)}; expected '
                f'({", ".join(map(str, shape))}), for u of shape {tuple(u.shape)}'
            )
