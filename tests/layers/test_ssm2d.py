"""The 2-D SSM layer: official values, initialisation, flags, and nothing stale."""

import copy
import pickle

import golden
import pytest
import torch
from parity import assert_equal_in_double

from mmssm.layers.ssm2d import SSM2D
from mmssm.ops.filter import plan, ssm2d_kernel
from mmssm.weights.official import ssm2d as ssm2d_names

CASES = [
    (complex_states, directions)
    for complex_states in (False, True)
    for directions in (2, 4)
]


def official(complex_states, directions):
    """A layer with the weights of a stored case, and the case's arrays."""
    data = golden.load('ssm2d')
    case = f'c{int(complex_states)}_d{directions}_s2_n4_e8/'
    arrays = {k.removeprefix(case): v for k, v in data.items() if k.startswith(case)}
    layer = SSM2D(8, 4, 2, directions, complex_states, skip=True, norm=True).double()
    weights = {k.removeprefix('param/'): v for k, v in arrays.items() if 'param/' in k}
    layer.load_state_dict(ssm2d_names.layers(weights))
    return layer, data['x'].double(), arrays


@pytest.mark.parametrize('complex_states, directions', CASES)
def test_official_values_and_gradients(complex_states, directions):
    layer, x, arrays = official(complex_states, directions)
    assert_equal_in_double(layer.kernels(8, 8).flatten(0, 1), arrays['kernel'])
    y = layer(x.requires_grad_())
    assert_equal_in_double(y, arrays['out_norm_res'])
    (y * golden.cotangent(y, 'cot0')).sum().backward()
    assert_equal_in_double(x.grad, arrays['grad_input'])
    grads = {k.removeprefix('grad/'): v for k, v in arrays.items() if 'grad/' in k}
    expected = ssm2d_names.layers(grads)
    for name, parameter in layer.named_parameters():
        assert_equal_in_double(parameter.grad, expected[name], name)


@pytest.mark.parametrize('complex_states, directions', CASES)
def test_official_values_without_skip_and_norm(complex_states, directions):
    layer, x, arrays = official(complex_states, directions)
    bare = SSM2D(8, 4, 2, directions, complex_states).double()
    weights = {k: v for k, v in layer.state_dict().items() if 'norm' not in k}
    bare.load_state_dict(weights)  # omega, which it has no use for, is ignored
    assert_equal_in_double(bare(x), arrays['out'])


def test_initialisation_is_the_released_one():
    torch.manual_seed(0)
    real = SSM2D(64, 16, 8, 4, skip=True)
    for parameter, std in ((real.A, 0.2), (real.B, 0.2), (real.C, 1), (real.omega, 1)):
        assert parameter.std().item() == pytest.approx(std, rel=0.25)
        assert abs(parameter.mean().item()) < 0.3 * std
    pair = SSM2D(64, 16, 8, 4, complex_states=True)
    assert 0.5 <= pair.A.min() < 0.6
    assert 2.9 < pair.A.max() <= 3
    assert pair.B.std().item() == pytest.approx(0.2, rel=0.1)


def test_coefficients_keep_their_digits_near_one():
    layer = SSM2D(2, 1)
    layer.A.data.fill_(12)
    A, _, _ = layer.coefficients(torch.float64)
    A.sum().backward()
    exact = torch.sigmoid(torch.tensor(12.0).double())
    slope = exact * (1 - exact)
    assert (layer.A.grad.double() / slope - 1).abs().max() < 1e-6


@pytest.mark.parametrize('decay_A', [True, False])
def test_flags_for_weight_decay(decay_A):
    made = SSM2D(4, skip=True, decay_A=decay_A)
    for layer in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        spared = {
            name
            for name, parameter in layer.named_parameters()
            if getattr(parameter, 'no_weight_decay', False)
        }
        assert spared == ({'B', 'C'} if decay_A else {'A', 'B', 'C'})


def kept(layer, x):
    """Output in inference, with the kernels that are kept if any are."""
    layer.eval()
    with torch.no_grad():
        for _ in range(3):
            y = layer(x)
    assert layer._kept._entry[2] is not None
    return y


def fresh(layer, x):
    """Output of a new layer with the same weights."""
    other = SSM2D(6, 3, skip=True, keep_kernels=False).to(x.dtype)
    other.load_state_dict(layer.state_dict())
    other.tolerance, other.kernel_size = layer.tolerance, layer.kernel_size
    with torch.no_grad():
        return other.eval()(x)


def train_a_step(layer, x):
    layer.train()
    layer(x).square().mean().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()


def load_other_weights(layer, x):
    layer.load_state_dict(SSM2D(6, 3, skip=True).state_dict())


def swap_through_data(layer, x):
    for parameter in layer.parameters():
        parameter.data.copy_(parameter.data + 0.1)


def swap_in_place(layer, x):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.lerp_(torch.ones_like(parameter), 0.5)


def change_one_value_through_data(layer, x):
    layer.B.data.view(-1)[5] += 0.5


def exchange_a_parameter(layer, x):
    layer.omega = torch.nn.Parameter(torch.zeros(6))


def change_the_tolerance(layer, x):
    layer.tolerance = 0.5


def change_the_kernel_size(layer, x):
    layer.kernel_size = 2


@pytest.mark.parametrize(
    'change',
    [
        train_a_step,
        load_other_weights,
        swap_through_data,
        swap_in_place,
        change_one_value_through_data,
        exchange_a_parameter,
        change_the_tolerance,
        change_the_kernel_size,
    ],
)
def test_kept_kernels_are_never_stale(change, monkeypatch):
    monkeypatch.setattr(plan, 'SMALL', 0)  # tolerances count on small maps too
    torch.manual_seed(0)
    layer, x = SSM2D(6, 3, skip=True), torch.randn(2, 6, 9, 7)
    before = kept(layer, x)
    change(layer, x)
    layer.eval()
    with torch.no_grad():
        after = layer(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(layer, x))
    assert torch.equal(kept(layer, x), after)


def test_kept_kernels_do_not_follow_to_other_maps_dtypes_and_copies():
    layer, x = SSM2D(6, 3, skip=True), torch.randn(2, 6, 9, 7)
    kept(layer, x)
    for other in (x.mT, x[:1], x[..., :5]):
        assert torch.equal(kept(layer, other), fresh(layer, other))
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied._kept._entry[2] is None
    double = copy.deepcopy(layer).double()
    assert_equal_in_double(kept(double, x.double()), fresh(double, x.double()))
    kept(layer, x)
    layer.double()
    with torch.no_grad():
        assert torch.equal(layer(x.double()), kept(double, x.double()))
    layer.train()(x.double())
    assert layer._kept._entry[2] is None


def test_kept_kernels_give_the_same_bits_and_no_gradient_is_lost():
    layer, x = SSM2D(6, 3, skip=True), torch.randn(2, 6, 9, 7)
    assert torch.equal(kept(layer, x), layer(x))
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_maps(dtype):
    layer, x = SSM2D(4, 3, norm=True), torch.randn(1, 4, 6, 5)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    expected = layer(x.to(dtype).float())
    assert (y.float() - expected).abs().max() <= 0.02 * expected.abs().max()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(layer(x.to(dtype)), y)
    assert layer.to(dtype)(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (6, 1), (5, 8)])
@pytest.mark.parametrize('complex_states', [False, True])
def test_every_parameter_gets_a_gradient(size, complex_states):
    layer = SSM2D(5, 3, 2, 4, complex_states, skip=True, norm=True)
    layer(torch.randn(2, 5, *size)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert size == (1, 1) or parameter.grad.any(), name


@pytest.mark.parametrize('complex_states', [False, True])
def test_compiles_whole(complex_states):
    layer = SSM2D(4, 2, 1, 2, complex_states, skip=True, norm=True)
    compiled = torch.compile(layer, backend='aot_eager', fullgraph=True)
    for size in ((5, 6), (3, 9)):
        x = torch.randn(1, 4, *size, requires_grad=True)
        results = []
        for model in (layer, compiled):
            y = model(x)
            inputs = [x, *layer.parameters()]
            results.append([y, *torch.autograd.grad(y.sin().sum(), inputs)])
        for actual, expected in zip(*results, strict=True):
            assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_channels_last_model():
    layer = SSM2D(4, 3, complex_states=True, skip=True, norm=True)
    x = torch.randn(2, 4, 6, 5)
    expected = layer(x)
    last = layer.to(memory_format=torch.channels_last)
    assert torch.equal(last(x.to(memory_format=torch.channels_last)), expected)


def test_kernels_of_the_layer():
    layer = SSM2D(4, 3, 2)
    kernels = layer.kernels(5, 7)
    assert kernels.shape == (4, 4, 5, 7)
    expected = ssm2d_kernel(*layer.coefficients(torch.float32), (5, 7))
    assert torch.equal(kernels, expected)


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(directions=3), 'directions is 3; expected one of 2, 4'),
        (dict(channels=0), 'channels is 0'),
        (dict(num_states=0), 'num_states is 0'),
        (dict(num_ssms=-1), 'num_ssms is -1'),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        SSM2D(**dict(channels=4) | options)


def test_bad_maps_and_parameters():
    layer = SSM2D(4, 3, skip=True)
    for shape in ((4, 5, 5), (1, 3, 5, 5), (1, 4, 0, 5), (0, 4, 5, 5)):
        with pytest.raises(ValueError, match='channels=4'):
            layer(torch.randn(shape))
    with pytest.raises(ValueError, match='expected floating point'):
        layer(torch.ones(1, 4, 5, 5, dtype=torch.long))
    for name, value in (('A', torch.inf), ('B', torch.nan), ('omega', torch.nan)):
        broken = copy.deepcopy(layer)
        getattr(broken, name).data.view(-1)[0] = value
        with pytest.raises(ValueError, match=f'{name} has values that are not finite'):
            broken(torch.randn(1, 4, 5, 5))


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('directions', [2, 4])
def test_traced_by_torchscript_for_its_size(directions):
    layer = SSM2D(4, directions=directions).eval()
    x = torch.randn(1, 4, 9, 7)
    with pytest.warns(torch.jit.TracerWarning):  # the trace fits one size of maps
        traced = torch.jit.trace(layer, x)
    other = torch.randn(1, 4, 9, 7)
    assert torch.equal(traced(other), layer(other))
