"""How many kernels a training compiles, counted by what launches would ask for.

A launch compiles when its kernel, dtypes, compile-time numbers, or what Triton takes
for special of its other numbers, are new.  Nothing is computed here: launches are
written down.
"""

import inspect
import random

import pytest
import torch
import triton.language as tl
from kernels import DEVICE
from triton.runtime.interpreter import InterpretedFunction

from mmssm.backbones.spatial_mamba import SpatialMambaBlock
from mmssm.ops import dispatch

if DEVICE != 'cpu':
    pytest.skip(
        'on a GPU kernels are compiled, not written down', allow_module_level=True
    )
OPS = ('selective_scan', 'observe', 'gated_norm', 'channel_norm', 'depthwise_conv')


@pytest.fixture
def asked(monkeypatch):
    """Keys of the compilations that launches ask for."""
    found = set()

    def note(self, *args, grid, warmup, **options):
        values = dict(zip(self.arg_names, args, strict=False)) | options
        found.add((self.__name__, *(key_of(self, n, v) for n, v in values.items())))

    monkeypatch.setattr(InterpretedFunction, 'run', note)
    for op in OPS:
        implementations = dispatch.registered()[op]
        (triton,) = (i for i in implementations if i.name == 'triton')
        known = dispatch._OPS | {op: (triton._replace(suits=lambda *_: True),)}
        monkeypatch.setattr(dispatch, '_OPS', known)
    return found


def key_of(kernel, name, value):
    """What of an argument is part of a compiled kernel."""
    if isinstance(value, torch.Tensor):
        apart = name in (kernel.kwargs['do_not_specialize_on_alignment'] or ())
        return name, value.dtype, apart or value.data_ptr() % 16 == 0
    if name in (kernel.kwargs['do_not_specialize'] or ()):
        return name, type(value)
    parameters = inspect.signature(kernel.fn).parameters
    told = name not in parameters or parameters[name].annotation is tl.constexpr
    constant = told or not isinstance(value, int)
    return name, value if constant else (value == 1, value % 16 == 0)


def step(channels, height, width, batch=1):
    block = SpatialMambaBlock(channels)
    x = torch.empty(batch, height, width, channels).permute(0, 3, 1, 2)
    block(x.requires_grad_()).sum().backward()


def test_a_network_asks_for_few_and_a_second_step_for_none(asked):
    """A norm of a map knows how many channels it has; nothing else does."""
    counts = []
    for stage in range(4):
        step(64 << stage, 56 >> stage, 56 >> stage, batch=2)
        counts.append(len(asked))
        step(64 << stage, 56 >> stage, 56 >> stage, batch=2)
        assert len(asked) == counts[-1]
    assert {key[0] for key in asked} >= {'_scan', '_scan_back', '_forward', '_back'}
    assert counts[0] <= 18
    norms = {'_norm', '_norm_back', '_gated', '_gated_back'}
    assert sum(key[0] not in norms for key in asked) <= 14
    assert counts[-1] - counts[0] == 3 * len(norms)


def test_no_size_of_a_picture_asks_for_another(asked):
    step(16, 50, 84)
    first = len(asked)
    draw = random.Random(0)
    for _ in range(100):
        # a stage of stride 4 to 32 of a picture of COCO's training sizes
        stride = draw.choice((16, 32))
        short, long = draw.randint(480, 800), draw.randint(800, 1333)
        height, width = draw.sample((short, long), 2)
        step(16, -(-height // stride), -(-width // stride), batch=draw.randint(1, 2))
    assert len(asked) - first <= 2  # one or several segments of a scan
