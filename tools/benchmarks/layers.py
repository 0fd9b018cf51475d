"""The 2-D SSM layer and its neighbours on the map of a first stage.

Neighbours: a Swin block (mmdet's: windows of 7, MLP ratio 4), a depthwise 7x7
convolution, and what the released 2-D SSM does, written anew from its description:
every state as a sum of monomials by tables over all cells, flipped copies of the input
for all directions, FFTs of twice the side.  It wants square maps and grows with the
cube of their side: it takes part up to 32 x 32.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmssm.layers.ssm2d import SSM2D
from mmssm.ops.filter import ssm2d
from tools.benchmarks.case import Case, Prepared, Setting, passes
from tools.benchmarks.parity_gate import largest_error, passed_back

Size = tuple[int, int]
CHANNELS = 96
LONGEST = 32  # side of a map for the released algorithm
FLIPS = {2: [(), (2, 3)], 4: [(), (2,), (3,), (2, 3)]}
REFERENCE = 'depthwise-7x7'
RELEASED = 'ssm2d-released-algorithm'


class Ours(NamedTuple):
    """The layer with options of its own, or what `wrap` makes of it for a size."""

    options: dict[str, object] = {}
    wrap: Callable[[SSM2D, Size], nn.Module] = lambda layer, size: layer

    def layer(self, channels: int, **more: object) -> SSM2D:
        """2 SSMs for each direction; kernels are kept where the options say so."""
        options = dict(num_ssms=2, keep_kernels=False) | self.options | more
        return SSM2D(channels, **options)

    def build(self, size: Size) -> nn.Module:
        """For maps of a size."""
        return self.wrap(self.layer(CHANNELS), size)

    def gate(self, device: str) -> float:
        """The error on a map on which every option leaves all taps."""
        torch.manual_seed(0)
        layer = self.layer(6, num_states=3).to(device, torch.float64)
        x = torch.randn(2, 6, 7, 7, dtype=torch.float64).to(device).requires_grad_()
        leaves = [x, *layer.parameters()]
        model = self.wrap(layer, (7, 7)).to(device, torch.float64)
        if isinstance(model, KernelsOnly):
            model = layer
        ours = passed_back(lambda: model(x), leaves)
        naive = passed_back(
            lambda: ssm2d(x, *layer.coefficients(x.dtype), backend='naive'), leaves
        )
        return largest_error(ours, naive)


def ours() -> dict[str, Ours]:
    """By the names in the tables."""
    return {
        'ssm2d': Ours(),
        'ssm2d-kernels-kept': Ours(dict(keep_kernels=True)),
        'ssm2d-kernels-only': Ours(wrap=lambda layer, size: KernelsOnly(layer)),
        'ssm2d-support-32': Ours(dict(kernel_size=32)),
        'ssm2d-1e-6': Ours(dict(tolerance=1e-6)),
        'ssm2d-1e-3': Ours(dict(tolerance=1e-3)),
        'ssm2d-2-directions': Ours(dict(directions=2)),
        'ssm2d-complex': Ours(dict(complex_states=True)),
        RELEASED: Ours(wrap=lambda layer, size: PublishedPattern(layer, size[0])),
    }


def cases(group: str) -> list[Case]:
    """Neighbours first; ratios are to the convolution."""
    peer = f'{group}/{REFERENCE}'
    found = [Case(peer, partial(_prepare, _convolution), peer=peer)]
    if find_spec('mmdet'):
        found.append(
            Case(f'{group}/swin-block', partial(_prepare, SwinBlock), peer=peer)
        )
    for name, entry in ours().items():
        case = Case(f'{group}/{name}', partial(_prepare, entry.build), entry.gate, peer)
        found.append(case._replace(fits=_is_small) if name == RELEASED else case)
    return found


def _convolution(size: Size) -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, 7, 1, 3, groups=CHANNELS)


def _is_small(setting: Setting) -> bool:
    height, width = setting.map_size
    return height == width <= LONGEST


def _prepare(build: Callable[[Size], nn.Module], setting: Setting) -> Prepared:
    """The input gets a gradient too, as inside a network."""
    torch.manual_seed(0)
    model = build(setting.map_size).to(setting.device)
    model.train(setting.mode == 'training')
    shape = (setting.batch, CHANNELS, *setting.map_size)
    x = torch.randn(shape, device=setting.device, requires_grad=True)
    run = torch.compile(model) if setting.compiled else model
    return Prepared(passes(lambda: run(x), [x, *model.parameters()], setting), model)


class PublishedPattern(nn.Module):
    """The released algorithm on square maps of one side; parameters of `layer`."""

    def __init__(self, layer: SSM2D, side: int) -> None:
        super().__init__()
        self.layer, self.side = layer, side
        powers, factors = monomials(side)
        self.register_buffer('powers', powers)  # (2, cells * terms, 4)
        self.register_buffer('factors', factors)  # (2, cells * terms, 2)

    def kernels(self) -> Tensor:
        """(directions * channels, side, side)."""
        A, B, C = self.layer.coefficients(self.layer.A.dtype)
        powers = torch.pow(A, self.powers[..., None, None])
        inputs = torch.einsum('atb,bsn->atsn', self.factors.to(B.dtype), B)
        terms = torch.cat([powers, inputs.unsqueeze(2)], 2).prod(2)
        states = terms.unflatten(1, (self.side**2, -1)).sum(2)  # (2, cells, S, N)
        C = C.flatten(1, 2).unflatten(1, (-1, A.shape[1])) / A.shape[2] ** 0.5
        kernels = torch.einsum('acsn,aosn->cos', states, C).flatten(1).real
        kernels = kernels.unflatten(0, (self.side, self.side)).clone()
        kernels[0] *= 2
        kernels[:, 0] *= 2
        kernels[0, 0] /= 4
        return kernels.permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = (2 * self.side, 2 * self.side)
        flips = FLIPS[self.layer.directions]
        copies = torch.cat([x.flip(axes) for axes in flips], 1)
        spectra = torch.fft.rfft2(copies, s=double) * torch.fft.rfft2(
            self.kernels(), s=double
        )
        y = torch.fft.irfft2(spectra, s=double)[..., : self.side, : self.side]
        parts = y.split(x.shape[1], 1)
        return sum(part.flip(axes) for part, axes in zip(parts, flips, strict=True))


def monomials(side: int) -> tuple[Tensor, Tensor]:
    """Every state as a sum of at most 2 * side monomials of A1 ... A4, B1, B2.

    Returns powers (2, cells * terms, 4) of A and factors (2, cells * terms, 2) of B,
    for both states of all cells.
    """
    cells = {}
    for i in range(side):
        for j in range(side):
            h, v = {}, {}
            if i == j == 0:
                h[0, 0, 0, 0, 0] = v[0, 0, 0, 0, 1] = 1.0
            if j > 0:
                h = _send(cells[i, j - 1], (0, 1))
            if i > 0:
                v = _send(cells[i - 1, j], (2, 3))
            cells[i, j] = h, v
    powers = torch.zeros(2, side**2, 2 * side, 4, dtype=torch.int64)
    factors = torch.zeros(2, side**2, 2 * side, 2)
    for (i, j), states in cells.items():
        for axis, state in enumerate(states):
            for term, ((*exponents, source), factor) in enumerate(state.items()):
                powers[axis, i * side + j, term] = torch.tensor(exponents)
                factors[axis, i * side + j, term, source] = factor
    return powers.flatten(1, 2), factors.flatten(1, 2)


def _send(cell: tuple[dict, dict], transitions: tuple[int, int]) -> dict:
    """What a neighbour gets: the mean of both states if both exist, else their sum."""
    share = 0.5 if cell[0] and cell[1] else 1.0
    sums = {}
    for state, transition in zip(cell, transitions, strict=True):
        for key, factor in state.items():
            new = list(key)
            new[transition] += 1
            sums[tuple(new)] = sums.get(tuple(new), 0.0) + share * factor
    return sums


class SwinBlock(nn.Module):
    """mmdet's block on (B, C, H, W)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        from mmdet.models.backbones.swin import SwinBlock as Block

        self.block = Block(CHANNELS, CHANNELS // 32, 4 * CHANNELS, window_size=7)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        y = self.block(x.flatten(2).transpose(1, 2).contiguous(), size)
        return y.transpose(1, 2).unflatten(2, size)


class KernelsOnly(nn.Module):
    """The part of a layer that does not see the input."""

    def __init__(self, layer: SSM2D) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.kernels(*x.shape[2:])
