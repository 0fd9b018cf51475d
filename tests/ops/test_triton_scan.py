"""The selective scan's kernels equal its definition, however the work is divided."""

import pytest
import torch
from kernels import DEVICE, double, generator_of, gradients, kernels_of
from parity import assert_as_exact_as_naive, assert_equal_in_double
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from mmssm.ops import dispatch, selective_scan

scan = kernels_of('scan')
single = scan.single
NAMES = ('states', 'u', 'delta', 'A', 'B', 'delta_bias')
SHAPES = [  # (B, D, N, G, L)
    (2, 6, 1, 1, 29),
    (1, 4, 3, 1, 21),
    (2, 8, 2, 4, 19),
    (1, 6, 1, 2, 16),
    (1, 3, 1, 1, 1),
    (1, 2, 1, 1, 2),
]


@pytest.fixture
def small_tiles(monkeypatch):
    """16 or fewer positions in a tile, several tiles in a segment, several segments."""
    for name, value in {'TILE': 32, 'TILE_ADJOINT': 32, 'PROGRAMS': 18}.items():
        monkeypatch.setattr(scan, name, value)
    own = {'CHANNELS': 4, 'STEPS': 4, 'STEPS_ADJOINT': 2, 'PROGRAMS': 6}
    for name, value in {**own, 'SHORTEST': 8}.items():
        monkeypatch.setattr(single, name, value)


def make(shape, dtype=torch.float64, decay=1.0):
    B, D, N, G, L = shape
    randn = generator_of(sum(shape))
    A = -decay * torch.exp(randn(D, N))
    values = (randn(B, D, L), 4 * randn(B, D, L), A, randn(B, G, N, L), randn(D))
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, backend):
    states = selective_scan(*inputs, backend=backend)
    return dict(zip(NAMES, (states, *gradients(states, inputs)), strict=True))


def assert_kernels_equal_naive(inputs):
    fast, naive = (with_grads(inputs, b) for b in ('triton', 'naive'))
    for name, expected in naive.items():
        assert_equal_in_double(fast[name], expected, name)


@pytest.mark.usefixtures('small_tiles')
@pytest.mark.parametrize('shape', SHAPES)
def test_kernels_equal_naive(shape):
    assert_kernels_equal_naive(make(shape))


@pytest.mark.usefixtures('small_tiles')
@pytest.mark.parametrize('decay', [1e-6, 1e6])
def test_weak_and_strong_decay(decay):
    assert_kernels_equal_naive(make(SHAPES[1], decay=decay))


@pytest.mark.usefixtures('small_tiles')
def test_the_small_tiles_divide_everything():
    u, _, _, B, _ = make((1, 6, 3, 1, 65))
    plan = scan.tiles(u, B, scan.TILE)
    assert plan.blocks > 1
    assert plan.segments > 2
    assert plan.length > plan.positions
    blocks, count, length = single.segments_of(2, 6, 29)
    assert blocks > 1
    assert count > 2
    assert length > single.STEPS


def test_kernels_equal_naive_at_their_own_tiles():
    assert_kernels_equal_naive(make((1, 5, 1, 1, 33)))


@pytest.mark.usefixtures('small_tiles')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('shape', SHAPES[2:3])
def test_kernels_are_as_exact_in_lower_precision(shape, dtype):
    inputs = make(shape, torch.float32)
    inputs = [
        v.detach().to(torch.float32 if k in (2, 4) else dtype).requires_grad_()
        for k, v in enumerate(inputs)
    ]
    exact = with_grads(double(inputs), 'naive')
    fast, naive = (with_grads(inputs, b) for b in ('triton', 'naive'))
    assert fast['states'].dtype == torch.float32
    for name, expected in exact.items():
        assert fast[name].dtype == naive[name].dtype
        assert_as_exact_as_naive(fast[name], naive[name], expected, name)


@pytest.mark.usefixtures('small_tiles')
def test_memory_layout_does_not_matter():
    inputs = make((2, 6, 2, 2, 21))
    expected = with_grads(inputs, 'triton')

    def apart(t):
        """The same values in other places: axes turned around, every second one."""
        turned = t.detach().permute(*reversed(range(t.dim())))
        doubled = turned.repeat_interleave(2, dim=0)[::2]
        return doubled.permute(*reversed(range(t.dim()))).requires_grad_()

    actual = with_grads([apart(t) for t in inputs], 'triton')
    for name in NAMES:
        assert torch.equal(actual[name], expected[name])
    u, delta, A, B, bias = inputs
    expanded = [u[:1].expand_as(u), delta[..., :1].expand_as(delta), A, B, bias]
    assert_kernels_equal_naive([t.detach().requires_grad_() for t in expanded])
    summed = selective_scan(*inputs, backend='triton').sum()  # a gradient of stride 0
    naive = selective_scan(*inputs, backend='naive').sum()
    for pair in zip(
        torch.autograd.grad(summed, inputs),
        torch.autograd.grad(naive, inputs),
        strict=True,
    ):
        assert_equal_in_double(*pair)


def test_strong_decay_and_large_steps_stay_finite():
    u, delta, A, B, bias = make((1, 2, 1, 1, 40), torch.float32, decay=1e8)
    inputs = [u, (30 * delta.detach()).requires_grad_(), A, B, bias]
    for value in with_grads(inputs, 'triton').values():
        assert value.isfinite().all()


@pytest.mark.usefixtures('small_tiles')
def test_result_is_the_same_every_time():
    inputs = make((1, 6, 1, 1, 29), torch.float32)
    first, second = (with_grads(inputs, 'triton') for _ in range(2))
    for name in NAMES:
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize('shape', [(2, 6, 1, 1, 21), (1, 4, 3, 2, 9)])
def test_a_step_of_low_rank_is_its_product(shape):
    u, delta, A, B, bias = make(shape)
    step = delta[:, :2].detach().requires_grad_()  # (B, R, L)
    weight = torch.linspace(-1, 1, 2 * len(bias)).double().view(-1, 2).requires_grad_()
    inputs = (u, step, A, B, bias, weight)
    fast, naive = (
        selective_scan(*inputs[:5], delta_weight=weight, backend=backend)
        for backend in ('triton', 'naive')
    )
    assert_equal_in_double(fast, naive)
    cotangent = torch.linspace(-1, 2, fast.numel()).double().view(fast.shape)
    grads = (torch.autograd.grad(h, inputs, cotangent) for h in (fast, naive))
    for pair in zip(*grads, strict=True):
        assert_equal_in_double(*pair)
    opcheck(torch.ops.mmssm.selective_scan_low_rank_triton, inputs)


def test_operators_are_registered_soundly():
    inputs = make((1, 2, 2, 1, 5))
    opcheck(torch.ops.mmssm.selective_scan_triton, inputs)
    last = [t.detach().mT.contiguous().mT.requires_grad_() for t in inputs[:2]]
    opcheck(torch.ops.mmssm.selective_scan_triton, [*last, *inputs[2:]])


def test_gradients_have_the_strides_that_compiled_code_expects():
    inputs = make((2, 4, 3, 1, 5), torch.float32)
    h = torch.ops.mmssm.selective_scan_triton(*inputs)
    given = [t.detach() for t in (torch.ones_like(h), *inputs, h)]
    adjoint = torch.ops.mmssm.selective_scan_triton_adjoint
    with FakeTensorMode() as mode:
        promised = adjoint(*map(mode.from_tensor, given))
    for real, fake in zip(adjoint(*given), promised, strict=True):
        assert real.stride() == fake.stride()


def test_compiled_code_keeps_the_operators_whole():
    inputs = make((1, 3, 1, 1, 9))
    compiled = torch.compile(
        lambda *given: selective_scan(*given, backend='triton'),
        backend='aot_eager',
        fullgraph=True,
    )
    states = compiled(*inputs)
    expected = selective_scan(*inputs, backend='naive')
    assert_equal_in_double(states, expected)
    for pair in zip(
        gradients(states, inputs), gradients(expected, inputs), strict=True
    ):
        assert_equal_in_double(*pair)


def test_there_is_no_second_gradient():
    inputs = make((1, 2, 1, 1, 4))
    states = selective_scan(*inputs, backend='triton')
    (grad,) = torch.autograd.grad(states.sum(), inputs[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match='no second derivative'):
        grad.sum().backward()


@pytest.mark.skipif(DEVICE == 'cuda', reason='a GPU prefers the kernels')
def test_a_cpu_takes_the_kernels_by_name_only(monkeypatch):
    inputs = make((1, 2, 1, 1, 4))
    chosen = dispatch.choose('selective_scan', None, *inputs)
    assert chosen.__name__ == 'selective_scan_tree'
    monkeypatch.delenv('TRITON_INTERPRET')
    with pytest.raises(RuntimeError, match='triton: the inputs are on cpu; Triton run'):
        selective_scan(*inputs, backend='triton')
