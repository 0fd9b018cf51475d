"""Every form of the linear attention is the same function, at every size of map."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_as_exact_as_naive, assert_equal_in_double

from mmssm.ops import attention_matrix, linear_attention, rotary_angles, rotate
from mmssm.ops.linear import recomputed

FORMS = ['recomputed', 'plain', 'matrix']
# heads and channels: pairs that turn lie in one head, or in two
HEADS = [(1, 4), (2, 8), (4, 12), (3, 12)]
SIZES = [(5, 7), (1, 1), (1, 8), (9, 1), (3, 2)]


def make(channels, height, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * width)
    randn = partial(torch.randn, generator=generator, dtype=torch.float64)
    values = [2 * randn(2, channels, height, width) for _ in range(3)]
    return [v.to(dtype).requires_grad_() for v in values]


def with_grads(inputs, heads, backend):
    y = linear_attention(*inputs, heads=heads, backend=backend)
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return y, *torch.autograd.grad(y, inputs, cotangent.to(y.dtype))


@pytest.mark.parametrize('backend', FORMS)
@pytest.mark.parametrize(('heads', 'channels'), HEADS)
@pytest.mark.parametrize('size', SIZES)
def test_every_form_equals_naive(backend, heads, channels, size):
    inputs = make(channels, *size)
    naive, fast = (with_grads(inputs, heads, b) for b in ('naive', backend))
    if size == (1, 1):
        # the gradients of q and k are what a million times larger terms leave
        naive, fast = ([torch.stack(results)] for results in (naive, fast))
    for pair in zip(fast, naive, strict=True):
        assert_equal_in_double(*pair)


@pytest.mark.parametrize('size', [(5, 7), (1, 8)])
def test_samples_together_as_on_a_gpu(size, monkeypatch):
    inputs = [torch.cat([x, x.sin(), -x]) for x in make(12, *size)]
    naive = with_grads(inputs, 3, 'naive')
    monkeypatch.setattr(recomputed, '_at_once', lambda x: 4)  # of six: not all
    for pair in zip(with_grads(inputs, 3, 'recomputed'), naive, strict=True):
        assert_equal_in_double(*pair)


def test_a_gpu_takes_as_many_samples_as_fit():
    few, many = (torch.empty(4, c, 64, 64, device='meta') for c in (1024, 1 << 16))
    assert recomputed._at_once(torch.empty(4, 8, 2, 2)) == 1
    assert recomputed._at_once(few) == recomputed.TOGETHER // (1024 * 64 * 64)
    assert recomputed._at_once(many) == 1


@pytest.mark.parametrize('backend', FORMS)
def test_every_form_is_as_exact_in_float32(backend):
    single = make(8, 8, 9, dtype=torch.float32)
    double = [v.detach().double().requires_grad_() for v in single]
    form, naive = (with_grads(single, 2, b) for b in (backend, 'naive'))
    exact = with_grads(double, 2, 'naive')
    for result in zip(form, naive, exact, strict=True):
        assert_as_exact_as_naive(*result)


def test_gradients_are_those_of_finite_differences():
    inputs = make(8, 2, 3)
    assert torch.autograd.gradcheck(partial(linear_attention, heads=2), inputs)


def test_two_positions_by_hand():
    # a = (1, 2, 1, 1) and b = (1, 1, 3, 1) at column 0; (1, 1, 1, 1) at column 1, where
    # the second pair turns by one radian, as does every later column
    q = torch.zeros(1, 4, 1, 2, dtype=torch.float64)
    k, v = torch.zeros_like(q), torch.zeros_like(q)
    q[0, 1, 0, 0], k[0, 2, 0, 0] = 1, 2
    v[0, :, 0, 0], v[0, :, 0, 1] = 1, 10
    y = linear_attention(q, k, v)[0, :, 0]
    cos, sin = math.cos(1), math.sin(1)
    turned = (cos - sin, cos + sin)  # of (1, 1)
    products = [
        [1 + 2 + 3 + 1, 1 + 2 + turned[0] + turned[1]],
        [1 + 1 + 3 * turned[0] + turned[1], 1 + 1 + 2],
    ]
    mean = (1, 1, 2, 1)  # of b
    levels = [1 + 2 + 2 + 1 + 1e-6, sum(mean) + 1e-6]
    for p in range(2):
        expected = (products[p][0] + 10 * products[p][1]) / 2 / levels[p]
        assert_equal_in_double(y[:, p], torch.full_like(y[:, p], expected))


def test_angles_of_rows_and_columns():
    angles = rotary_angles((3, 5), 8, torch.empty(0, dtype=torch.float64))
    assert angles.shape == (15, 4)
    row, column = 2, 3
    expected = [row, row * 10000**-0.5, column, column * 10000**-0.5]
    assert_equal_in_double(
        angles[row * 5 + column], torch.tensor(expected, dtype=torch.float64)
    )
    # a position has the same angles in every map
    larger = rotary_angles((7, 9), 8, angles)
    assert torch.equal(larger[row * 9 + column], angles[row * 5 + column])


def test_what_positions_see_of_each_other_depends_on_their_distance():
    x = torch.randn(2, 8, dtype=torch.float64)
    angles = rotary_angles((6, 6), 8, x)
    turned = rotate(x[:, None], angles)  # (2, 36, 8)
    products = (turned[0] @ turned[1].T).reshape(6, 6, 6, 6)
    assert_equal_in_double(products[1, 1, 3, 2], products[2, 4, 4, 5])
    assert not torch.isclose(products[1, 1, 3, 2], products[1, 1, 2, 3])
    assert_equal_in_double(
        turned.square().sum(-1), x.square().sum(-1)[:, None] + 0 * turned[..., 0]
    )


def test_the_matrix_acts_on_the_values_of_its_head():
    q, k, v = (t.detach() for t in make(12, 3, 5))
    mixing = attention_matrix(q, k, 3)
    assert mixing.shape == (2, 3, 15, 15)
    y = linear_attention(q, k, v, heads=3).reshape(2, 3, 4, 15)
    values = v.reshape(2, 3, 4, 15)
    expected = torch.einsum('bhpl,bhcl->bhcp', mixing, values)
    assert_equal_in_double(y, expected)


def test_equals_the_formula_of_the_paper_without_positions():
    """At one position nothing turns: y = (a . b) v / (a . b + 1e-6)."""
    q, k, v = make(8, 1, 1)
    a, b = (F.elu(x).flatten() + 1 for x in (q[0], k[0]))
    y = linear_attention(q, k, v)[0].flatten()
    assert_equal_in_double(y, a @ b / (a @ b + 1e-6) * v[0].flatten())


@pytest.mark.parametrize('backend', ['recomputed', 'plain'])
def test_memory_layout_does_not_matter(backend):
    inputs = make(8, 6, 5)
    expected = with_grads(inputs, 2, backend)
    last = [
        t.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        for t in inputs
    ]
    # halves of one projection, as the layer has them
    joint = torch.cat([t.detach() for t in inputs[:2]], 1)
    q, k = joint.contiguous(memory_format=torch.channels_last).chunk(2, 1)
    halves = [q.requires_grad_(), k.requires_grad_(), last[2]]
    for others in (last, halves):
        for pair in zip(with_grads(others, 2, backend), expected, strict=True):
            assert_equal_in_double(*pair)
    assert expected[0].shape == inputs[0].shape


@pytest.mark.parametrize('backend', [*FORMS, 'naive'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_sums_run_in_float32_under_autocast(dtype, backend):
    q, k, v = (t.detach() for t in make(8, 9, 7, dtype=dtype))
    with torch.autocast('cpu', dtype=dtype):
        y = linear_attention(q, k, v, heads=2, backend=backend)
    assert y.dtype == dtype
    exact = linear_attention(q.double(), k.double(), v.double(), heads=2)
    error = (y.double() - exact).abs().max() / exact.abs().max()
    assert error < torch.finfo(dtype).eps


def test_gradients_have_the_dtype_of_what_they_belong_to():
    inputs = make(8, 5, 4, dtype=torch.bfloat16)
    inputs[2] = inputs[2].detach().float().requires_grad_()
    y, *grads = with_grads(inputs, 2, None)
    assert y.dtype == torch.bfloat16
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_time_and_memory_are_linear():
    """A map whose (L, L) matrix would take 80 GB."""
    q, k, v = torch.randn(3, 1, 4, 1000, 100)
    y = linear_attention(q, k, v)
    assert y.isfinite().all()


def test_recorded_without_gradients_it_is_torch_alone():
    q, k, v = (t.detach() for t in make(8, 5, 7))
    seen = []

    def backend(graph, inputs):
        seen.extend(str(n.target) for n in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    run = torch.compile(
        partial(linear_attention, heads=2), backend=backend, fullgraph=True
    )
    with torch.no_grad():
        y = run(q, k, v)
    assert_equal_in_double(y, linear_attention(q, k, v, heads=2))
    assert seen
    assert not any('mmssm' in name for name in seen)


def test_an_exported_graph_serves_other_sizes():
    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return linear_attention(q, k, v, heads=2)

    sizes = {2: torch.export.Dim('H', min=2), 3: torch.export.Dim('W', min=2)}
    example, other = ([t.detach() for t in make(8, *s)] for s in ((5, 7), (9, 4)))
    with torch.no_grad():
        graph = torch.export.export(
            Attention(), tuple(example), dynamic_shapes=(sizes,) * 3
        )
        y = graph.module()(*other)
    assert_equal_in_double(y, linear_attention(*other, heads=2))


@pytest.mark.parametrize(
    ('position', 'shape', 'heads', 'words'),
    [
        (0, (2, 8, 4), 2, 'q has shape'),
        (0, (2, 8, 4, 0), 2, 'no zero'),
        (1, (2, 8, 5, 4), 2, r'k has shape \(2, 8, 5, 4\); expected that of q'),
        (2, (2, 4, 4, 5), 2, r'v has shape \(2, 4, 4, 5\)'),
        (None, (2, 6, 4, 5), 2, '6 channels; expected a multiple of 4'),
        (None, (2, 8, 4, 5), 3, 'heads is 3; expected a divisor of the 8'),
        (None, (2, 8, 4, 5), 0, 'heads is 0'),
        (None, (2, 8, 4, 5), 2.0, 'heads is 2.0'),
    ],
)
def test_bad_arguments_are_named(position, shape, heads, words):
    inputs = [torch.zeros(2, 8, 4, 5)] * 3
    if position is None:
        inputs = [torch.zeros(shape)] * 3
    else:
        inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=words):
        linear_attention(*inputs, heads=heads)


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="no backend 'softmax'"):
        linear_attention(*make(4, 2, 2), backend='softmax')
