"""The support is a bound: what it leaves out is at most the tolerance."""

import pytest
import torch
from parity import assert_equal_in_double

from mmssm.ops.filter import plan, ssm2d, ssm2d_kernel, ssm2d_support, truncation
from mmssm.ops.filter.states.wavefront import states_wavefront

SIZE = (40, 56)


def make(complex_states=False, center=0.0, channels=4, ssms=2, directions=2):
    generator = torch.Generator().manual_seed(7)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    A = torch.sigmoid(0.2 * randn(4, ssms, 5) + center)
    B, C = torch.sigmoid(randn(2, ssms, 5)), randn(2, directions, channels, 5)
    if complex_states:
        A = torch.polar(A, 6 * randn(4, ssms, 5))
        B, C = torch.complex(B, randn(2, ssms, 5)), torch.complex(C, randn(*C.shape))
    return A, B, C


@pytest.mark.parametrize('complex_states', [False, True])
@pytest.mark.parametrize('center', [-1.0, 0.0, 1.0])
@pytest.mark.parametrize('tolerance', [1e-1, 1e-3, 1e-6])
def test_left_out_mass_is_within_the_tolerance(complex_states, center, tolerance):
    A, B, C = make(complex_states, center)
    mass = ssm2d_kernel(A, B, C, SIZE).abs()
    for ssm, (height, width) in enumerate(ssm2d_support(A, B, C, SIZE, tolerance)):
        left_out = mass[:, ssm::2].clone()
        left_out[..., :height, :width] = 0
        assert left_out.sum((0, 2, 3)).max() <= tolerance


def test_bound_is_exact_for_positive_states():
    A, B, _ = make()
    states = states_wavefront(A.flatten(1), B.flatten(1), 300, 40)
    columns = states.sum(0).permute(1, 2, 0).unflatten(1, A.shape[1:])
    assert_equal_in_double(truncation._masses(A, B, 40), columns)


def test_rows_are_columns_of_the_transposed_model():
    A, B, C = make()
    A = A * torch.tensor([0.3, 1.0, 1.0, 1.4], dtype=A.dtype)[:, None, None]
    tall = ssm2d_support(A, B, C, (40, 56), 1e-4)
    wide = ssm2d_support(A.flip(0), B.flip(0), C.flip(0), (56, 40), 1e-4)
    assert tall == [(height, width) for width, height in wide]
    assert all(height > width for height, width in tall)


@pytest.mark.parametrize('complex_states', [False, True])
@pytest.mark.parametrize('directions', [2, 4])
@pytest.mark.parametrize('tolerance', [1e-2, 1e-5])
def test_output_changes_by_at_most_the_tolerance(complex_states, directions, tolerance):
    A, B, C = make(complex_states, ssms=directions, directions=directions)
    x = torch.rand(1, 4, *SIZE, dtype=torch.float64).round() * 2 - 1  # |x| = 1
    exact, cut = (ssm2d(x, A, B, C, tolerance=t) for t in (0.0, tolerance))
    assert 0 < (exact - cut).abs().max() <= tolerance


def test_gradient_is_that_of_the_truncated_filter():
    inputs = [t.requires_grad_() for t in make()]
    x = torch.randn(1, 4, *SIZE, dtype=torch.float64, requires_grad=True)
    group = next(
        plan.groups(*inputs, plan.Plan(SIZE, 1e-3, 'wavefront'), map_size=SIZE)
    )
    assert group.ssms == slice(0, 2)
    assert group.size < SIZE
    results = []
    for options in (dict(tolerance=1e-3), dict(kernel_size=group.size)):
        y = ssm2d(x, *inputs, **options)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *inputs])])
    for actual, expected in zip(*results, strict=True):
        assert_equal_in_double(actual, expected)


def test_every_ssm_has_its_own_reach():
    A, B, C = make(channels=4, ssms=4, directions=4)
    A[:, 2:] = torch.sigmoid(torch.logit(A[:, 2:]) + 2.5)
    options = plan.Plan(SIZE, 1e-4, 'wavefront')
    near, far = plan.groups(A, B, C, options, SIZE)
    assert (near.ssms, far.ssms) == (slice(0, 2), slice(2, 4))
    assert near.size[0] < far.size[0]
    assert near.lengths[0] < far.lengths[0]


def test_unbounded_memory_keeps_the_whole_map():
    A, B, C = make()
    A[0] = A[3] = 1
    assert ssm2d_support(A, B, C, SIZE, 1e-2) == [SIZE] * 2


def test_small_budgets_change_nothing(monkeypatch):
    inputs = [t.requires_grad_() for t in make(channels=8, ssms=4, directions=4)]
    x = torch.randn(3, 8, 12, 10, dtype=torch.float64, requires_grad=True)

    def results():
        y = ssm2d(x, *inputs)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *inputs])]

    expected = results()
    for budget in (plan.Budget(1, 1, 1), plan.Budget(20000, 8000, 40000)):
        monkeypatch.setattr(plan, 'CPU', budget)
        for actual, wanted in zip(results(), expected, strict=True):
            assert_equal_in_double(actual, wanted)


def test_small_maps_keep_all_taps():
    inputs = make()
    x = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    assert torch.equal(ssm2d(x, *inputs, tolerance=0.1), ssm2d(x, *inputs))
