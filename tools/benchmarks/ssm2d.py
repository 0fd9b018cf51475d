"""Time and memory of the 2-D SSM layer against its neighbours, in one table.

    python tools/benchmarks/ssm2d.py
    python tools/benchmarks/ssm2d.py --sizes 32x32 200x334 --repeats 5 --device cuda
    python tools/benchmarks/ssm2d.py --rows backbones --images 512x512x2 800x1333x1

First a parity gate: the layer against its definition and against the published pattern,
in double, with gradients; nothing is timed if it fails.  Then, for every size, the time
of a forward pass in inference and of a training step (forward and backward) and the
peak memory of the step beyond parameters, input and gradient.  On a CPU one thread
works, and the time is that of the process, so that a busy machine disturbs little; all
contenders of a size take turns, and the least time of each counts.

Contenders: a Swin block (mmdet's: windows of 7, MLP ratio 4), a depthwise 7x7
convolution, and what the released 2-D SSM does, written anew from its description:
every state as a sum of monomials by tables over all cells, flipped copies of the input
for all directions, FFTs of twice the side.  It wants square maps and grows with the
cube of their side: it takes part up to --published.

A second table has whole backbones in training: mmdet's Swin-T and the same with a
layer in each block, as configs/ssm2d has it, with all taps and with those that the
layer's tolerance of 1e-6 leaves.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mmssm.layers.ssm2d import SSM2D
from mmssm.ops.filter import ssm2d
from tools.benchmarks.measure import (
    in_fresh_process,
    infer,
    machine,
    peak_bytes,
    seconds,
    size_of,
    step,
    take_turns,
    use,
)
from tools.benchmarks.parity_gate import LIMIT, network_error

SIZES = ('8x8', '16x16', '32x32', '64x64', '128x128', '200x334')
IMAGES = ('512x512x2', '800x1333x1')
ROWS = ('layers', 'backbones')
# Names in the second table -> arguments of mmssm.SSM2DHost
BACKBONES = {
    'Swin-T': {},
    'Swin-T + 2-D SSM': dict(directions=4),
    'Swin-T + 2-D SSM, tolerance 1e-6': dict(directions=4, tolerance=1e-6),
}
# Size of images -> what time and memory may be, as multiples of Swin-T's
TARGETS = {(512, 512): (1.35, 1.20), (800, 1333): (1.5, 1.25)}
FLIPS = {2: [(), (2, 3)], 4: [(), (2,), (3,), (2, 3)]}


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

    def __init__(self, channels: int) -> None:
        super().__init__()
        from mmdet.models.backbones.swin import SwinBlock as Block

        heads = max(1, channels // 32)
        self.block = Block(channels, heads, 4 * channels, window_size=7)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        y = self.block(x.flatten(2).transpose(1, 2).contiguous(), size)
        return y.transpose(1, 2).unflatten(2, size)


class KernelsOnly(nn.Module):
    """The part of a layer that does not see the input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, SSM2D):
            return self.layer.kernels(*x.shape[2:])
        return self.layer.kernels()


def contenders(
    channels: int, size: tuple[int, int], published: int
) -> dict[str, Callable[[], nn.Module]]:
    """Names in the table and how to build what they stand for."""
    layer = partial(SSM2D, channels, num_ssms=2, keep_kernels=False)
    builders = {
        '2-D SSM': layer,
        '2-D SSM, kernels kept': partial(layer, keep_kernels=True),
        '2-D SSM, support 32': partial(layer, kernel_size=32),
        '2-D SSM, tolerance 1e-6': partial(layer, tolerance=1e-6),
        '2-D SSM, tolerance 1e-3': partial(layer, tolerance=1e-3),
        '2-D SSM, 2 directions': partial(layer, directions=2),
        '2-D SSM, complex': partial(layer, complex_states=True),
        'Swin block': partial(SwinBlock, channels),
        'depthwise 7x7': lambda: nn.Conv2d(
            channels, channels, 7, 1, 3, groups=channels
        ),
        'kernels only': lambda: KernelsOnly(layer()),
    }
    if size[0] == size[1] <= published:
        pattern = lambda: PublishedPattern(layer(), size[0])  # noqa: E731
        builders['published pattern'] = pattern
        builders['published, kernels only'] = lambda: KernelsOnly(pattern())
    return builders


def parity_gate() -> None:
    """Stop unless layer, definition and published pattern agree in double."""
    worst = 0.0
    for complex_states in (False, True):
        for directions in (2, 4):
            torch.manual_seed(0)
            layer = SSM2D(6, 3, 3, directions, complex_states).double()
            x = torch.randn(2, 6, 7, 7, dtype=torch.float64, requires_grad=True)
            naive = ssm2d(x, *layer.coefficients(x.dtype), backend='naive')
            tensors = [x, *layer.parameters()]
            grads = torch.autograd.grad(naive, tensors, torch.ones_like(naive))
            for model in (layer, PublishedPattern(layer, 7).double()):
                y = model(x)
                others = torch.autograd.grad(y, tensors, torch.ones_like(y))
                for ours, exact in zip((y, *others), (naive, *grads), strict=True):
                    error = (ours - exact).abs().max() / exact.abs().max()
                    worst = max(worst, error.item())
    if not worst <= 1e-10:
        sys.exit(f'parity gate: relative error {worst:.1e} > 1e-10; nothing was timed')
    print(f'parity gate: passed, worst relative error {worst:.1e}\n')


def prepare(
    name: str, size: tuple[int, int], args: argparse.Namespace
) -> tuple[nn.Module, Tensor]:
    """A contender and its input."""
    torch.manual_seed(0)
    use(threads=1)
    model = contenders(args.channels, size, args.published)[name]().to(args.device)
    shape = (batch_of(size), args.channels, *size)
    return model, torch.randn(shape, device=args.device, requires_grad=True)


def batch_of(size: tuple[int, int]) -> int:
    """4 up to 32 x 32, 2 up to 128 x 128, else 1."""
    cells = math.prod(size)
    return 4 if cells <= 32**2 else 2 if cells <= 128**2 else 1


def times(
    size: tuple[int, int], args: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Least seconds of inference and of a training step for every contender."""
    ready = {
        name: prepare(name, size, args)
        for name in contenders(args.channels, size, args.published)
    }
    least = {}
    for repeat in range(args.repeats + 1):
        for name, (model, x) in ready.items():
            training = seconds(partial(step, model.train(), x), args.device)
            model.eval()
            for _ in range(2):  # kernels are kept from the second pass on
                infer(model, x)
            inference = seconds(partial(infer, model, x), args.device)
            if repeat > 0:  # the first round warms up
                before = least.get(name, (math.inf, math.inf))
                least[name] = min(before[0], inference), min(before[1], training)
    return least


def peak_megabytes(name: str, size: tuple[int, int], args: argparse.Namespace) -> float:
    """Peak memory of one training step beyond the model and its input."""
    model, x = prepare(name, size, args)
    if 'published' not in name:  # load what libraries load at their first call
        step(model, x[..., :8, :8].detach().requires_grad_())
        model.zero_grad()
    return peak_bytes(partial(step, model, x), args.device) / 1e6


def table(size: tuple[int, int], args: argparse.Namespace) -> None:
    """Print the rows of one size of maps."""
    least = times(size, args)
    peaks = {name: in_fresh_process(peak_megabytes, name, size, args) for name in least}
    ours, peak = least['2-D SSM'], peaks['2-D SSM']
    for name, (inference, training) in least.items():
        print(
            f'| {size[0]}x{size[1]}x{args.channels}, batch {batch_of(size)} | {name} '
            f'| {1e3 * inference:.2f} | {1e3 * training:.2f} | {peaks[name]:.0f} '
            f'| {inference / ours[0]:.2f} | {training / ours[1]:.2f} '
            f'| {peaks[name] / peak:.2f} |',
            flush=True,
        )


def build_backbone(name: str, device: str, drop_path_rate: float = 0.2) -> nn.Module:
    """Swin-T of mmdet as in configs/ssm2d, alone or with a layer in each block."""
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    use(threads=1)
    config = dict(type='mmdet.SwinTransformer', drop_path_rate=drop_path_rate)
    if BACKBONES[name]:
        config = dict(type='mmssm.SSM2DHost', host=config, **BACKBONES[name])
    model = MODELS.build(config).to(device)
    model.train()
    return model


def backbone_gate() -> None:
    """Stop unless Swin-T with the layer computes what the definition says."""
    error = network_error(build_backbone('Swin-T + 2-D SSM', 'cpu', drop_path_rate=0.0))
    if not error <= LIMIT:
        sys.exit(f'parity gate: Swin-T + 2-D SSM is off by {error:.1e}; not timed')
    print(f'parity gate: Swin-T + 2-D SSM passed, error {error:.1e}\n')


def backbone_peak(
    name: str, size: tuple[int, int], batch: int, device: str
) -> tuple[float, int]:
    """Megabytes that a training step takes beyond the model, and its parameters."""
    model = build_backbone(name, device)
    step(model, torch.randn(batch, 3, 64, 64, device=device))
    model.zero_grad()
    images = torch.randn(batch, 3, *size, device=device)
    peak = peak_bytes(partial(step, model, images), device) / 1e6
    return peak, sum(p.numel() for p in model.parameters())


def backbone_table(size: tuple[int, int], batch: int, args: argparse.Namespace) -> None:
    """Print the rows of one size of images."""
    images = torch.randn(batch, 3, *size, device=args.device)
    models = {name: build_backbone(name, args.device) for name in BACKBONES}
    timers = {
        name: partial(seconds, partial(step, model, images), args.device)
        for name, model in models.items()
    }
    least = {name: min(t) for name, t in take_turns(timers, args.repeats).items()}
    del timers, models
    peaks = {
        name: in_fresh_process(backbone_peak, name, size, batch, args.device)
        for name in BACKBONES
    }
    allowed = TARGETS.get(size)
    for name, (peak, parameters) in peaks.items():
        print(
            f'| {size[0]}x{size[1]}, batch {batch} | {name} | {parameters / 1e6:.2f} '
            f'| {1e3 * least[name]:.0f} | {peak:.0f} '
            f'| {least[name] / least["Swin-T"]:.3f} | {peak / peaks["Swin-T"][0]:.3f} '
            f'| {_target(name, allowed)} |',
            flush=True,
        )


def _target(name: str, allowed: tuple[float, float] | None) -> str:
    if allowed is None or name == 'Swin-T':
        return ''
    return f'at most {allowed[0]:.2f} and {allowed[1]:.2f}'


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--rows', nargs='+', choices=ROWS, default=ROWS, help='of which tables'
    )
    parser.add_argument('--sizes', nargs='*', default=SIZES, metavar='HxW')
    parser.add_argument(
        '--images', nargs='*', default=IMAGES, metavar='HxWxBATCH', help='of backbones'
    )
    parser.add_argument('--channels', type=int, default=96)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--published', type=int, default=32, help='longest side')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the description of the module."""
    args = parse(arguments)
    use(threads=1)
    parity_gate()
    told = machine(args.device)
    told['dtype'] = 'float32'
    print(', '.join(f'{key} {value}' for key, value in told.items()) + '\n')
    if 'layers' in args.rows:
        print(
            '| map | what | inference ms | step ms | peak MB | inf. ratio | step | MB |'
        )
        print('| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |')
        for size in args.sizes:
            table(size_of(size), args)
        print('\nRatios are to the first row of the same size.\n')
    if 'backbones' in args.rows:
        backbone_gate()
        print(
            '| images | what | parameters M | step ms | peak MB | step ratio | MB | |'
        )
        print('| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |')
        for images in args.images:
            size, batch = images.rsplit('x', 1)
            backbone_table(size_of(size), int(batch), args)
        print('\nRatios are to Swin-T at the same size; limits are on both ratios.')


if __name__ == '__main__':
    main()
