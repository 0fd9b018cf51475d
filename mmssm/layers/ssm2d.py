"""Two-dimensional state-space layer."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmssm.layers.arguments import (
    checked,
    choice,
    flag,
    integer,
    number,
    optional,
    size,
)
from mmssm.layers.channel_norm import ChannelNorm
from mmssm.ops import counting
from mmssm.ops.filter import Prepared, ssm2d, ssm2d_kernel, ssm2d_prepare

# what the arguments may be, but for the channels
OPTIONS = {
    'num_states': integer(1, 1024),
    'num_ssms': integer(1, 1024),
    'directions': choice(2, 4),
    'complex_states': flag,
    'skip': flag,
    'norm': flag,
    'kernel_size': optional(size(65536)),
    'tolerance': number(0),
    'decay_A': flag,
    'keep_kernels': flag,
}


class _Kept:
    """What was made of some values, for as long as they stay what they are.

    Values are compared, not versions: writing through `.data` leaves no trace but them.
    A copy, by pickle too, starts empty.
    """

    def __init__(self) -> None:
        self.forget()

    def get(
        self, key: tuple, values: list[Tensor], make: Callable[[], Prepared]
    ) -> Prepared | None:
        """make(), kept, from the second time on that key and values come; else None."""
        last_key, last_values, made = self._entry
        if last_key != key or not all(map(torch.equal, last_values, values)):
            self._entry = key, [v.clone() for v in values], None
            return None
        if made is None:
            made = make()
            self._entry = key, last_values, made
        return made

    def forget(self) -> None:
        """Free what is kept."""
        self._entry = None, [], None

    def __reduce__(self) -> tuple:
        return type(self), ()


class SSM2D(nn.Module):
    """Filter every channel with the impulse responses of 2-D state-space models.

        y = sum_d flip_d(K_d * flip_d(x)) + omega x, then LayerNorm if asked for
    (2-D SSM, arXiv 2306.06635; `ops.ssm2d` has the equations.)  x: (B, channels, H, W)
    of any size and memory format; y has the shape and the dtype of x.  All is computed
    in float32 (or float64) whatever autocast says.

    With S = num_ssms * directions and N = num_states:
    A: (4, S, N), sigmoid^-1 of the transitions A1 ... A4, N(0, 0.2^2).
    B: (2, S, N), sigmoid^-1 of the input weights, N(0, 0.2^2).
    C: (2, directions * channels, N), output weights, N(0, 1).
    omega: (channels,), N(0, 1), if skip.  norm.weight, norm.bias: (channels,), if norm.
    Complex states have a last axis of 2 more: in A angle and radius, both uniform in
    [0.5, 3], for the transition sigmoid(radius) exp(2 pi i sigmoid(angle)); in B and C
    real and imaginary part, sigmoid of each in B.

    directions: 4 or 2; see `ops.ssm2d`.
    kernel_size: longest reach of the kernels, a number or (height, width); None is that
    of the map.
    tolerance: leave out distant taps that change no output by more than this times
    max |x|; 0 leaves out none.  It may be changed at any time; see `ops.ssm2d`.
    decay_A: parameters that weight decay should spare carry `no_weight_decay = True`.
    As released these are B and C; A is decayed (towards A = 1/2, short memory), though
    its authors meant to spare it.  False spares A too.
    keep_kernels: in inference, from the second map of one shape on, keep the kernels,
    about 4 numbers for each of channels * H * W.  They are computed anew when a value
    of a parameter differs, however it was changed.
    """

    @checked({'channels': integer(), **OPTIONS})
    def __init__(
        self,
        channels: int,
        num_states: int = 16,
        num_ssms: int = 1,
        directions: int = 4,
        complex_states: bool = False,
        skip: bool = False,
        norm: bool = False,
        kernel_size: int | tuple[int, int] | None = None,
        tolerance: float = 0.0,
        decay_A: bool = True,
        keep_kernels: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.directions = directions
        self.complex_states = complex_states
        self.kernel_size = kernel_size
        self.tolerance = tolerance
        self.decay_A = decay_A
        self.keep_kernels = keep_kernels
        pair = (2,) if complex_states else ()
        ssms = num_ssms * directions
        self.A = nn.Parameter(torch.empty(4, ssms, num_states, *pair))
        self.B = nn.Parameter(torch.empty(2, ssms, num_states, *pair))
        self.C = nn.Parameter(torch.empty(2, directions * channels, num_states, *pair))
        self.omega = nn.Parameter(torch.empty(channels)) if skip else None
        self.norm = ChannelNorm(channels) if norm else None
        self._kept = _Kept()
        self._initialize()
        self._flag_parameters()

    def _initialize(self) -> None:
        if self.complex_states:
            nn.init.uniform_(self.A, 0.5, 3)
        else:
            nn.init.normal_(self.A, std=0.2)
        nn.init.normal_(self.B, std=0.2)
        nn.init.normal_(self.C)
        if self.omega is not None:
            nn.init.normal_(self.omega)

    def _flag_parameters(self) -> None:
        self.A.no_weight_decay = not self.decay_A
        self.B.no_weight_decay = self.C.no_weight_decay = True

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(x)
        if self.norm is not None:
            y = self.norm(y.to(self.norm.weight.dtype))
        return y.to(x.dtype)

    def mix(self, x: Tensor) -> Tensor:
        """The filter without the norm; float32 or float64."""
        self._check(x)
        kept = self._kept_filter(x)
        if kept is not None:
            return kept(x)
        return ssm2d(x, *self.coefficients(x.dtype), self.omega, **self._cut())

    def coefficients(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C of `ops.ssm2d`, for maps of dtype.

        sigmoid and its slope near 1 need more digits than float32 has.
        """
        double = torch.float64 in (dtype, self.A.dtype)
        dtype = torch.float64 if double else torch.float32
        A, B, C = torch.sigmoid(self.A.double()), torch.sigmoid(self.B.double()), self.C
        if self.complex_states:
            A = torch.polar(A[..., 1], 2 * math.pi * A[..., 0])
            B, C = (torch.complex(p[..., 0], p[..., 1]) for p in (B, C.to(dtype)))
            dtype = torch.complex128 if double else torch.complex64
        C = C.unflatten(1, (self.directions, self.channels))
        return A.to(dtype), B.to(dtype), C.to(dtype)

    def kernels(self, height: int, width: int) -> Tensor:
        """The kernels of all directions: (directions, channels, height, width)."""
        return ssm2d_kernel(*self.coefficients(self.A.dtype), (height, width))

    def extra_repr(self) -> str:
        _, ssms, states = self.A.shape[:3]
        return (
            f'channels={self.channels}, num_states={states}, '
            f'num_ssms={ssms // self.directions}, directions={self.directions}, '
            f'complex_states={self.complex_states}, skip={self.omega is not None}, '
            f'kernel_size={self.kernel_size}, tolerance={self.tolerance}'
        )

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.channels or 0 in x.shape:
            raise ValueError(
                f'x has shape {tuple(x.shape)}; expected (B, channels={self.channels}, '
                'H, W) with no zero'
            )
        if not x.is_floating_point():
            raise ValueError(f'x is {x.dtype}; expected floating point')
        if torch.compiler.is_compiling() or self.A.device.type != 'cpu':
            return  # looking would break the graph, or make the device wait
        for name, parameter in self.named_parameters(recurse=False):
            if not parameter.isfinite().all():
                raise ValueError(
                    f'{name} has values that are not finite; training has diverged: '
                    'lower the learning rate, clip gradients, or load a good checkpoint'
                )

    def _kept_filter(self, x: Tensor) -> Prepared | None:
        """The filter for x, where there is no gradient and a map like x came before."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.is_meta:
            return None
        if counting.is_counting():
            return None  # a count does not depend on what came before
        if self.training or torch.is_grad_enabled() or not self.keep_kernels:
            self._kept.forget()
            return None
        cut = self._cut()
        values = [p.detach() for p in self.parameters(recurse=False)]
        dtypes = tuple(v.dtype for v in (x, *values))
        key = (x.shape, x.device, dtypes, *cut.values())

        def make() -> Prepared:
            return ssm2d_prepare(x, *self.coefficients(x.dtype), self.omega, **cut)

        return self._kept.get(key, values, make)

    def _cut(self) -> dict:
        return dict(kernel_size=self.kernel_size, tolerance=self.tolerance)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *rest: object
    ) -> None:
        # a released checkpoint holds omega even where it was not used
        if self.omega is None:
            state_dict.pop(f'{prefix}omega', None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._flag_parameters()  # copies of parameters lose their attributes
