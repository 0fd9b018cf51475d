"""What a token mixer does to a map, written as y = M x.

Mamba's scan, linear attention, Spatial-Mamba's fused states, VMINet's separable
attention and the 2-D SSM are all linear in what they mix, once the coefficients that
they draw from the input are held: y_p = sum_q M[p, q] x_q, with a matrix over positions
for each channel or group of channels (Spatial-Mamba, arXiv 2410.15091, section 3.4;
MILA, arXiv 2405.16605, section 3).  Here M is built from a layer's parameters in closed
form, whole or a few rows at a time, in the precision of the layer.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssm.layers import (
    SSM2D,
    CrossScanSSM,
    GatedLinearAttention,
    LinearAttention,
    SeparableAttention,
    StructureAwareSSM,
)
from mmssm.ops import (
    attention_matrix,
    cross_scan,
    merge_kernels,
    resample_positions,
)
from mmssm.ops.attention.windowed import window_shares, window_starts


class Mixing(NamedTuple):
    """The linear step of a mixer on one input.

        y = M x, each channel by the matrix of its group
    x: (B, C, H, W), what is mixed.  y: (B, C, H, W), what the layer makes of it.
    rows: positions (P,) in row-major order -> rows of M, (B, G, P, L), L = H W, with G
    a divisor of C; neighbouring channels form a group.
    """

    x: Tensor
    y: Tensor
    rows: Callable[[Tensor], Tensor]

    def apply(self, matrix: Tensor) -> Tensor:
        """M x: (B, G, P, L) -> (B, C, P)."""
        maps = self.x.flatten(2).unflatten(1, (matrix.shape[1], -1))  # (B, G, C/G, L)
        return (maps @ matrix.mT).flatten(1, 2)


# of VMamba's scan, in the order of its parameters
DIRECTIONS = ('rows', 'columns', 'rows-back', 'columns-back')


def mixing_matrix(layer: nn.Module, x: Tensor, direction: str | None = None) -> Tensor:
    """M of a layer's mixing step on an input of the layer.

    layer: StructureAwareSSM (scan, fusion and observation of Spatial-Mamba),
    CrossScanSSM (four scans of VMamba), LinearAttention or GatedLinearAttention (MILA,
    without the local convolution), SeparableAttention (VMINet) or SSM2D (without its
    norm).  x: (B, C, H, W), an input of the layer.
    direction: one of `DIRECTIONS` alone, of a CrossScanSSM; with 'rows' M is that of
    Mamba, which reads a map row by row.
    Returns (B, G, L, L), row p for output p; G is the number of channels, of heads, or
    1 where all channels are mixed alike.  O(G L^2) memory; see `mixing_row`.
    What M multiplies, and gives, `mixing` tells.

    Raises TypeError for another layer and ValueError for an input without positions, a
    direction that there is not, or one of a layer without directions.
    """
    step = mixing(layer, x, direction)
    positions = torch.arange(x.shape[2] * x.shape[3], device=x.device)
    return step.rows(positions)


def mixing_row(
    layer: nn.Module,
    x: Tensor,
    position: Sequence[int] | Sequence[Sequence[int]],
    direction: str | None = None,
) -> Tensor:
    """Rows of `mixing_matrix`, without the matrix: what one position reads.

    position: (row, column) of the map, or several of them.
    Returns (B, G, H, W), or (B, G, P, H, W) for P positions.

    Raises as `mixing_matrix`, and ValueError for a position outside of the map.
    """
    places = torch.as_tensor(position)
    height, width = x.shape[2:]
    size = torch.tensor([height, width])
    if places.shape[-1:] != (2,) or places.dim() > 2 or places.is_floating_point():
        raise ValueError(f'position is {position!r}; expected (row, column)')
    if (places < 0).any() or (places >= size).any():
        raise ValueError(
            f'position is {position!r}; expected (row, column) inside of the map of '
            f'{height} x {width}'
        )
    flat = (places * torch.tensor([width, 1])).sum(-1).reshape(-1).to(x.device)
    rows = mixing(layer, x, direction).rows(flat).unflatten(3, (height, width))
    return rows if places.dim() == 2 else rows.squeeze(2)


def mixing(layer: nn.Module, x: Tensor, direction: str | None = None) -> Mixing:
    """The mixing step of a layer on an input; see `mixing_matrix`."""
    describe = next(
        (run for kind, run in MIXERS.items() if isinstance(layer, kind)), None
    )
    if describe is None:
        names = ', '.join(kind.__name__ for kind in MIXERS)
        raise TypeError(
            f'{type(layer).__name__} is no mixer with a known matrix; expected one of '
            f'{names}: a part of a block, such as model.stages[0].blocks[0].ssm'
        )
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(
            f'x has shape {tuple(x.shape)}; expected (B, C, H, W) with no zero'
        )
    if direction is None:
        return describe(layer, x)
    if direction not in DIRECTIONS:
        raise ValueError(f'direction is {direction!r}; expected one of {DIRECTIONS}')
    if not isinstance(layer, CrossScanSSM):
        raise ValueError(
            f'direction is {direction!r}, of a {type(layer).__name__}; expected a '
            'CrossScanSSM, as VMamba has it, or no direction'
        )
    return _cross_scan(layer, x, [DIRECTIONS.index(direction)])


def scan_rows(
    positions: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor | None = None
) -> Tensor:
    """Rows of the matrix of a selective scan, sum over its states.

        M[t, s] = sum_n C_t,n exp(A_n sum_{s < r <= t} dt_r) dt_s B_s,n    for s <= t
    (Mamba, arXiv 2312.00752, equation 2 unrolled.)

    positions: (P,), the t.  dt: (B, D, L), steps after the softplus.  A: (D, N).
    B, C: (B, N, L); without C the states themselves.  Returns (B, D, P, L).
    """
    time = dt.cumsum(2)
    length = torch.arange(dt.shape[2], device=dt.device)
    past = length <= positions[:, None]  # (P, L)
    elapsed = time[:, :, positions, None] - time[:, :, None]  # (B, D, P, L)
    elapsed = elapsed.where(past, 0.0)
    total = torch.zeros_like(elapsed)
    for n in range(A.shape[1]):
        decay = torch.exp(A[:, n, None, None] * elapsed).where(past, 0.0)
        weight = dt * B[:, None, n]
        seen = decay * weight[:, :, None]
        total += seen if C is None else seen * C[:, None, n, positions, None]
    return total


def _structure_aware(layer: StructureAwareSSM, x: Tensor) -> Mixing:
    """M = diag(C) F H + diag(D): scan H, fusion F, observation C."""
    u, _ = layer.expand(x)
    step, B, C = layer.coefficients(u)
    height, width = u.shape[2:]
    wide = layer.dt_proj(step.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    dt, A = F.softplus(wide).flatten(2), -torch.exp(layer.A_log)
    fusion = layer.state_fusion
    kernel = merge_kernels(
        fusion.kernels.unsqueeze(2), fusion.alpha, fusion.dilations
    ).squeeze(1)  # (D, S, S)
    reach = kernel.shape[-1] // 2

    def rows(positions: Tensor) -> Tensor:
        offsets = torch.arange(-reach, reach + 1, device=x.device)
        down = (positions[:, None] // width + offsets).clamp(0, height - 1)  # (P, S)
        right = (positions[:, None] % width + offsets).clamp(0, width - 1)
        read = down[:, :, None] * width + right[:, None]  # (P, S, S)
        used = kernel.abs().amax(0) > 0
        places, inverse = read[:, used].unique(return_inverse=True)
        states = scan_rows(places, dt, A, B.flatten(2))  # (B, D, places, L)
        total = 0
        for tap, weight in zip(inverse.T, kernel[:, used].T, strict=True):
            total = total + weight[:, None, None] * states[:, :, tap]
        observed = C.flatten(2)[:, :, positions, None] * total
        return observed + _diagonal(layer.D[:, None, None], positions, height * width)

    return Mixing(u, layer.mix(u), rows)


def _cross_scan(
    layer: CrossScanSSM, x: Tensor, chosen: Sequence[int] = (0, 1, 2, 3)
) -> Mixing:
    """The sum over the chosen directions."""
    u = layer.expand(x)
    delta, B, C = layer.coefficients(u)
    height, width = u.shape[2:]
    dt = F.softplus(delta + layer.dt_bias[..., None, None])
    A = -torch.exp(layer.A_log)
    by_row = torch.arange(height * width, device=x.device)
    by_column = by_row.unflatten(0, (height, width)).T.flatten()
    orders = (by_row, by_column, by_row.flip(0), by_column.flip(0))
    others = [k for k in range(len(orders)) if k not in chosen]
    D, seen = layer.D.clone(), C.clone()
    D[others], seen[:, others] = 0, 0  # what is not observed adds nothing

    def rows(positions: Tensor) -> Tensor:
        total = _diagonal(D.sum(0)[:, None, None], positions, height * width)
        for k in chosen:
            time = orders[k].argsort()  # when the direction visits each position
            inputs = (t[:, k].flatten(2)[..., orders[k]] for t in (B, C))
            ordered = dt[:, k].flatten(2)[..., orders[k]]
            found = scan_rows(time[positions], ordered, A[k], *inputs)
            total = total + found[..., time]
        return total

    y = cross_scan(u, delta, A, B, seen, D, layer.dt_bias)
    return Mixing(u, y, rows)


def _linear_attention(layer: LinearAttention, x: Tensor) -> Mixing:
    q, k = layer.queries_and_keys(x)

    def rows(positions: Tensor) -> Tensor:
        return attention_matrix(q, k, layer.heads, positions)

    return Mixing(x, layer.mix(q, k, x), rows)


def _gated_linear_attention(layer: GatedLinearAttention, x: Tensor) -> Mixing:
    return _linear_attention(layer.attention, layer.expand(x))


def _separable_attention(layer: SeparableAttention, x: Tensor) -> Mixing:
    """M = alpha 1 w^T + beta I, or with a context for each window."""
    q, k = layer.query(x), layer.key(x)
    height, width = x.shape[2:]
    alpha, beta = layer.mix
    if layer.resample == 'window':
        window = tuple(map(min, layer.position.shape, (height, width)))
        small = resample_positions(layer.position, window)
        tops, lefts = (
            window_starts(*pair) for pair in zip((height, width), window, strict=True)
        )
        weights = small.new_zeros(len(tops), len(lefts), height, width)
        for i, top in enumerate(tops):
            for j, left in enumerate(lefts):
                part = weights[i, j, top : top + window[0]]
                part[:, left : left + window[1]] = small
        down, right = (
            window_shares(*pair).to(small)
            for pair in zip((height, width), window, strict=True)
        )
        shares = down[:, None, :, None] * right[:, None]  # (H, W, tops, lefts)
        shares, weights = shares.flatten(2).flatten(0, 1), weights.flatten(0, 1)
    else:
        shares = x.new_ones(height * width, 1)
        size = (height, width)
        weights = resample_positions(layer.position, size, layer.resample)[None]

    def rows(positions: Tensor) -> Tensor:
        context = alpha * shares[positions] @ weights.flatten(1)
        found = context + _diagonal(beta, positions, height * width)
        return found.expand(len(x), 1, -1, -1)

    return Mixing(F.relu6(q) * k, layer(x), rows)


def _ssm2d(layer: SSM2D, x: Tensor) -> Mixing:
    """M[p, q] = K(p - q), the kernels of all directions in one."""
    height, width = x.shape[2:]
    kernels = layer.kernels(height, width)  # (directions, C, H, W)
    if layer.kernel_size is not None:
        size = layer.kernel_size
        rows_kept, columns_kept = (size, size) if isinstance(size, int) else size
        kernels = kernels.clone()
        kernels[:, :, rows_kept:] = kernels[..., columns_kept:] = 0
    # K(0, 0) stands in the middle; a direction goes down or up, right or left
    both = kernels.new_zeros(layer.channels, 2 * height - 1, 2 * width - 1)
    ways = [(1, 1), (-1, 1), (1, -1), (-1, -1)][:: 1 if layer.directions == 4 else 3]
    for kernel, (down, right) in zip(kernels, ways, strict=True):
        flips = [axis for axis, way in ((1, down), (2, right)) if way < 0]
        top, left = (height - 1) * (down > 0), (width - 1) * (right > 0)
        both[:, top : top + height, left : left + width] += kernel.flip(flips)

    def rows(positions: Tensor) -> Tensor:
        found = torch.stack(
            [
                both[:, i : i + height, j : j + width].flip(1, 2).flatten(1)
                for i, j in zip(
                    (positions // width).tolist(),
                    (positions % width).tolist(),
                    strict=True,
                )
            ],
            dim=1,
        )  # (C, P, L)
        if layer.omega is not None:
            skip = layer.omega[:, None, None]
            found = found + _diagonal(skip, positions, height * width)
        return found.expand(len(x), -1, -1, -1)

    return Mixing(x, layer.mix(x), rows)


def _diagonal(value: Tensor, positions: Tensor, length: int) -> Tensor:
    """value where a row meets its own position: (..., P, L)."""
    return value * F.one_hot(positions, length).to(value)


MIXERS: dict[type[nn.Module], Callable[[nn.Module, Tensor], Mixing]] = {
    StructureAwareSSM: _structure_aware,
    CrossScanSSM: _cross_scan,
    GatedLinearAttention: _gated_linear_attention,
    LinearAttention: _linear_attention,
    SeparableAttention: _separable_attention,
    SSM2D: _ssm2d,
}
