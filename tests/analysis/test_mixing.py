"""M x is what the layer makes of x, for every mixer, at odd maps, in double."""

import pytest
import torch
from parity import assert_equal_in_double
from torch import nn

from mmssm.analysis.mixing import DIRECTIONS, mixing, mixing_matrix, mixing_row
from mmssm.analysis.mixing_properties import (
    mixing_matrix_rank,
    share_nearby,
    share_of_future,
    spread,
)
from mmssm.layers import (
    MLP,
    SSM2D,
    CrossScanSSM,
    GatedLinearAttention,
    LinearAttention,
    SeparableAttention,
    StructureAwareSSM,
)
from mmssm.ops import resample_positions, separable_attention

LAYERS = {
    'spatial_mamba': lambda: StructureAwareSSM(4, dilations=(1, 2)),
    'spatial_mamba_wide': lambda: StructureAwareSSM(4),
    'vmamba': lambda: CrossScanSSM(4, expand=2),
    'vmamba_states': lambda: CrossScanSSM(4, num_states=3),
    'mila': lambda: GatedLinearAttention(8, heads=2),
    'attention': lambda: LinearAttention(8, heads=1),
    **{
        f'vminet_{mode}': lambda mode=mode: SeparableAttention(4, 2, (3, 4), mode)
        for mode in ('bicubic', 'window', 'mean')
    },
    'ssm2d': lambda: SSM2D(4, num_states=2, skip=True, norm=True),
    'ssm2d_two': lambda: SSM2D(4, num_states=2, num_ssms=2, directions=2),
    'ssm2d_complex': lambda: SSM2D(4, num_states=2, complex_states=True, kernel_size=3),
}
SIZES = [(5, 7), (1, 6), (3, 1)]


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    made = LAYERS[request.param]().double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def channels(layer):
    linear = next((m for m in layer.modules() if isinstance(m, nn.Linear)), None)
    if isinstance(layer, SeparableAttention):
        return layer.query.in_channels
    return layer.channels if isinstance(layer, SSM2D) else linear.in_features


@pytest.mark.parametrize('size', SIZES)
def test_the_matrix_gives_what_the_layer_gives(layer, size):
    x = torch.randn(2, channels(layer), *size, dtype=torch.float64)
    with torch.no_grad():
        step = mixing(layer, x)
        matrix = mixing_matrix(layer, x)
    length = size[0] * size[1]
    assert matrix.shape[0] == 2
    assert matrix.shape[2:] == (length, length)
    assert step.x.shape[1] % matrix.shape[1] == 0
    assert_equal_in_double(step.apply(matrix), step.y.flatten(2))
    if isinstance(layer, SSM2D) and layer.norm is None:
        assert_equal_in_double(step.y, layer(x))


def test_the_layer_is_made_of_this_step(layer):
    x = torch.randn(1, channels(layer), 5, 7, dtype=torch.float64)
    y, expected = mixing(layer, x).y, layer(x)
    if isinstance(layer, StructureAwareSSM):
        _, z = layer.expand(x)
        rows = layer.out_norm(y.permute(0, 2, 3, 1)) * nn.functional.silu(
            z.permute(0, 2, 3, 1)
        )
        found = layer.out_proj(rows).permute(0, 3, 1, 2)
    elif isinstance(layer, CrossScanSSM):
        rows = layer.out_norm(y).permute(0, 2, 3, 1)
        found = layer.out_proj(rows).permute(0, 3, 1, 2)
    elif isinstance(layer, GatedLinearAttention):
        local = layer.attention.local(layer.expand(x))
        gate = nn.functional.silu(layer.gate_proj(x.permute(0, 2, 3, 1)))
        rows = (y + local).permute(0, 2, 3, 1) * gate
        found = layer.out_proj(rows).permute(0, 3, 1, 2)
    elif isinstance(layer, LinearAttention):
        found = y + layer.local(x)
    else:
        found = y if getattr(layer, 'norm', None) is None else layer.norm(y)
    assert_equal_in_double(found, expected)


def test_the_matrix_is_the_jacobian_of_a_linear_layer():
    torch.manual_seed(0)
    layer = SSM2D(3, num_states=2, skip=True).double()
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(layer, x)[0, :, :, :, 0]
    matrix = mixing_matrix(layer, x)[0].unflatten(1, (4, 5)).unflatten(3, (4, 5))
    for c in range(3):
        assert_equal_in_double(matrix[c], jacobian[c][:, :, c])


@pytest.mark.parametrize('name', ['spatial_mamba', 'vmamba', 'mila', 'vminet_bicubic'])
def test_the_matrix_is_the_jacobian_with_the_coefficients_held(name):
    """Of the step whose steps, keys and weights come from x, not from the argument."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    x = torch.randn(1, channels(layer), 3, 4, dtype=torch.float64)
    with torch.no_grad():
        step, matrix = mixing(layer, x), mixing_matrix(layer, x)
    if name == 'mila':
        q, k = layer.attention.queries_and_keys(step.x)

        def run(u):
            return layer.attention.mix(q, k, u)

    elif name == 'vminet_bicubic':

        def run(u):  # ReLU6(1) is 1, so that what is mixed is u
            weight = resample_positions(layer.position, u.shape[2:])
            return separable_attention(torch.ones_like(u), u, weight, *layer.mix)

    else:
        coefficients = layer.coefficients(step.x)
        layer.coefficients = lambda u: coefficients
        run = layer.mix
    jacobian = torch.autograd.functional.jacobian(run, step.x)[0, :, :, :, 0]
    groups = matrix.shape[1]
    wide = matrix[0].repeat_interleave(step.x.shape[1] // groups, 0)
    for c in range(step.x.shape[1]):
        found = jacobian[c, :, :, c].flatten(2).flatten(0, 1)
        assert_equal_in_double(wide[c], found)


def test_rows_without_the_matrix(layer):
    x = torch.randn(1, channels(layer), 4, 5, dtype=torch.float64)
    with torch.no_grad():
        matrix = mixing_matrix(layer, x)
        row = mixing_row(layer, x, (2, 3))
        several = mixing_row(layer, x, [(0, 0), (3, 4), (2, 3)])
    assert_equal_in_double(row.flatten(2), matrix[:, :, 2 * 5 + 3])
    assert_equal_in_double(several.flatten(3), matrix[:, :, [0, 19, 13]])


def test_a_row_of_a_large_map():
    layer = StructureAwareSSM(4)
    with torch.no_grad():
        row = mixing_row(layer, torch.randn(1, 4, 100, 167), (50, 80))
    assert row.shape == (1, 8, 100, 167)
    assert row.isfinite().all()
    assert row[:, :, 57:].abs().max() == 0  # beyond the reach of the fusion


def test_bad_arguments_are_named():
    x = torch.randn(1, 4, 3, 5)
    with pytest.raises(TypeError, match='MLP is no mixer .* StructureAwareSSM, Cross'):
        mixing_matrix(MLP(4), x)
    layer = SSM2D(4)
    with pytest.raises(ValueError, match=r'inside of the map of 3 x 5'):
        mixing_row(layer, x, (3, 0))
    with pytest.raises(ValueError, match=r'expected \(row, column\)'):
        mixing_row(layer, x, 3)
    with pytest.raises(ValueError, match='no zero'):
        mixing_matrix(layer, x[:, :, :0])


def test_properties_by_hand():
    matrix = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [2, 0, 2, 0], [-1, 1, 1, 1]])
    future = share_of_future(matrix)
    assert future.tolist() == [0, 0, 0, 0]
    backwards = share_of_future(matrix, torch.arange(4).flip(0))
    assert backwards.tolist() == [0, 0.5, 0.5, 0.75]
    assert mixing_matrix_rank(matrix).item() == 4
    assert mixing_matrix_rank(torch.ones(2, 4, 4).double()).tolist() == [1, 1]
    # on a map of 2 x 2 the last row reads from (0, 0), (0, 1), (1, 0) and itself
    expected = torch.tensor([0, 0.5, 0.5, (2**0.5 + 2) / 4])
    torch.testing.assert_close(spread(matrix, (2, 2)), expected)
    assert share_nearby(matrix, (2, 2)).tolist() == [1, 1, 1, 1]
    assert share_nearby(matrix, (1, 4)).tolist() == [1, 1, 0.5, 0.5]
    assert share_nearby(matrix, (1, 4), reach=0).tolist() == [1, 0.5, 0.5, 0.25]
    part = matrix[[2]]
    assert share_of_future(part, positions=torch.tensor([2])).item() == 0
    for run in (share_of_future, lambda m: spread(m, (2, 2))):
        with pytest.raises(ValueError, match='positions beside some of its rows'):
            run(part)
    with pytest.raises(ValueError, match='H W = L'):
        spread(matrix, (3, 2))
    with pytest.raises(ValueError, match='no order'):
        share_of_future(matrix, torch.tensor([0, 1, 1, 2]))


def test_what_the_papers_say_of_their_matrices():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        scan = mixing_matrix(StructureAwareSSM(8).double(), x)
        cross = mixing_matrix(CrossScanSSM(8).double(), x)
        attention = mixing_matrix(LinearAttention(8, 2).double(), x)
        separable = mixing_matrix(SeparableAttention(8, 1, (6, 7)).double(), x)
    # fused states look ahead, at most as far as the fusion reaches
    future = share_of_future(scan)
    assert 0 < future[..., : 6 * 7 // 2].max() < 1
    # four directions read everywhere
    assert (cross != 0).all()
    # the product of queries and keys has the width of a head; MILA's rotation keeps it
    assert mixing_matrix_rank(attention).max() <= 4
    # a context that all share, and the position itself
    _, beta = SeparableAttention(8, 1, (6, 7)).mix
    context = separable - beta.item() * torch.eye(42)
    assert mixing_matrix_rank(context).item() == 1


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_one_direction_reads_what_it_has_passed(direction):
    layer, x = CrossScanSSM(4, num_states=3).double(), torch.randn(2, 4, 3, 5).double()
    with torch.no_grad():
        step = mixing(layer, x, direction)
        matrix = mixing_matrix(layer, x, direction)
    assert_equal_in_double(step.apply(matrix), step.y.flatten(2))
    order = torch.arange(15)
    if direction.startswith('columns'):
        order = order.unflatten(0, (3, 5)).T.flatten()
    order = order.flip(0) if direction.endswith('back') else order
    ordered = matrix[:, :, order][..., order]
    assert torch.equal(ordered, ordered.tril())
    assert (ordered.tril(-1) != 0).any()
    assert (ordered.diagonal(dim1=2, dim2=3) != 0).all()


def test_four_directions_are_the_sum_of_each():
    layer, x = CrossScanSSM(4).double(), torch.randn(1, 4, 3, 5).double()
    with torch.no_grad():
        parts = [mixing_matrix(layer, x, direction) for direction in DIRECTIONS]
        assert_equal_in_double(sum(parts), mixing_matrix(layer, x))
        row = mixing_row(layer, x, (1, 2), 'columns')
    assert torch.equal(row.flatten(2), parts[1][:, :, 7])


def test_directions_that_there_are_not():
    x = torch.randn(1, 4, 3, 5)
    with pytest.raises(ValueError, match=r"direction is 'up'; expected one of \('rows"):
        mixing(CrossScanSSM(4), x, 'up')
    with pytest.raises(
        ValueError, match=r"'rows', of a SSM2D; expected a CrossScanSSM"
    ):
        mixing(SSM2D(4), x, 'rows')
