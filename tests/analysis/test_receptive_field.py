"""Receptive fields that can be counted by hand, and those that a plain sum misses."""

import math

import pytest
import torch
from torch import nn

from mmssm.analysis import receptive_field as rf
from mmssm.analysis import style
from mmssm.backbones import SpatialMamba
from mmssm.layers import ChannelNorm


def convolution(channels=1, stride=1, dilation=1):
    layer = nn.Conv2d(
        channels, channels, 3, stride, dilation, dilation=dilation, bias=False
    )
    nn.init.ones_(layer.weight)
    return layer


def field(model, size=(9, 11), form='published', **options):
    channels = next(
        (m.in_channels for m in model.modules() if hasattr(m, 'kernel_size')), 1
    )
    images = torch.rand(2, channels, *size)
    return rf.receptive_field(model, images, form=form, **options)


def padded(core, size=(9, 11)):
    """The core in the middle of zeros."""
    expected = torch.zeros(size, dtype=torch.float64)
    reach = len(core) // 2
    top, left = size[0] // 2 - reach, size[1] // 2 - reach
    expected[top : top + len(core), left : left + len(core)] = torch.tensor(core)
    return expected


ONE = [[1.0] * 3] * 3
TWO = [[float(a * b) for b in (1, 2, 3, 2, 1)] for a in (1, 2, 3, 2, 1)]
APART = [[float(a * b) for b in (1, 0, 1, 0, 1)] for a in (1, 0, 1, 0, 1)]


@pytest.mark.parametrize(
    ('model', 'core'),
    [
        (nn.Identity(), [[1.0]]),
        (convolution(), ONE),
        (nn.Sequential(convolution(), convolution()), TWO),
        (convolution(dilation=2), APART),
    ],
    ids=['identity', 'one', 'two', 'dilated'],
)
def test_fields_by_hand(model, core):
    # the sum over two pictures
    assert torch.equal(field(model), 2 * padded(core))


def test_the_random_form_is_the_mean_of_what_one_direction_sees():
    # one channel: |v| times the kernel, with a v of N(0, 1) for each picture
    found = field(convolution(), form='random', seed=3)
    generator = torch.Generator().manual_seed(3)
    scale = sum(torch.randn(1, generator=generator).abs().item() for _ in range(2)) / 2
    torch.testing.assert_close(found, scale * padded(ONE))


def test_random_weights_measure_the_columns_of_the_jacobian():
    torch.manual_seed(0)
    model = nn.Conv2d(2, 8, 3, padding=1, bias=False)
    found = rf.receptive_field(model, torch.rand(2000, 2, 3, 3))
    column = model.weight.detach().square().sum(0).sqrt().sum(0)
    expected = math.sqrt(2 / math.pi) * column.double()
    torch.testing.assert_close(found, expected, rtol=0.06, atol=0)


def test_a_norm_over_channels_hides_the_field_from_a_plain_sum():
    """The reason for the weights: the sum over channels behind the norm is fixed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), ChannelNorm(6))
    image = torch.rand(1, 1, 9, 11, dtype=torch.float64).requires_grad_()
    model = model.double()
    model(image)[0, :, 4, 5].sum().backward()
    assert image.grad.abs().max() < 1e-12
    found = rf.receptive_field(model, torch.rand(1, 1, 9, 11).double())
    assert (found > 0).sum() == 9


def test_an_output_in_the_middle_of_several():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = convolution(), convolution()

        def forward(self, x):
            x = self.a(x)
            return [x, self.b(x)]

    images = torch.rand(1, 1, 9, 11)
    first = rf.receptive_field(Two(), images, output=0, form='published')
    last = rf.receptive_field(Two(), images, form='published')
    assert torch.equal(first, padded(ONE))
    assert torch.equal(last, padded(TWO))


def test_areas_by_hand():
    # 9 of 81 cells in the middle hold 9 / 25 of a field of ones in 5 x 5
    contribution = torch.zeros(9, 9)
    contribution[2:7, 2:7] = 1
    found = rf.areas(contribution, (0.04, 0.2, 0.36, 0.37, 0.99))
    sides = {share: area.side for share, area in found.items()}
    assert sides == {0.04: 1, 0.2: 3, 0.36: 3, 0.37: 5, 0.99: 5}
    assert found[0.36].ratio == pytest.approx(9 / 81)
    assert found[0.99].ratio == pytest.approx(25 / 81)


def test_areas_end_at_the_border():
    found = rf.areas(torch.ones(4, 8), (0.5, 1.0))
    # from the middle (2, 4): columns 2 to 6 in all rows are 20 of 32 cells
    assert found[0.5] == (5, 20 / 32)
    assert found[1.0] == (9, 1.0)


def test_the_score_of_the_published_shares():
    score = rf.published_score(torch.tensor([[0.0, 9.0], [99.0, 0.0]]))
    torch.testing.assert_close(score, torch.tensor([[0.0, 0.5], [1.0, 0.0]]))


def test_modes_and_gradients_stay():
    model = nn.Sequential(convolution(), nn.BatchNorm2d(1), nn.Dropout(0.5))
    model[1].eval()
    rf.receptive_field(model, torch.rand(2, 1, 5, 5))
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert model[0].weight.grad is None


def test_what_cannot_be_measured_is_named():
    model = convolution()
    images = torch.rand(1, 1, 5, 5)
    with pytest.raises(ValueError, match="form is 'sum'; expected one of random"):
        rf.receptive_field(model, images, form='sum')
    with pytest.raises(ValueError, match='output is 1; the backbone gives 1 maps'):
        rf.receptive_field(model, images, output=1)
    with pytest.raises(ValueError, match=r'expected a map \(B, C, H, W\)'):
        rf.receptive_field(nn.Flatten(), images)
    model.weight.data.zero_()
    with pytest.raises(ValueError, match='no pixel contributes to output -1 of Conv2d'):
        rf.receptive_field(model, images)


def test_a_backbone_at_an_odd_size(tmp_path):
    torch.manual_seed(0)
    model = SpatialMamba(dict(channels=8, depths=(1, 1)), out_indices=(0, 1))
    images = rf.noise(1, (3, 33, 47))
    fields = [
        rf.Field(form, rf.receptive_field(model, images, form=form))
        for form in rf.FORMS
    ]
    summaries = [rf.summary(f, form) for f, form in zip(fields, rf.FORMS, strict=True)]
    assert 'score_within' in summaries[1]
    assert summaries[0]['size'] == [33, 47]
    with style.styled():
        rows = {'33 x 47': fields, 'again': fields, 'half': fields[:1]}
        made = rf.draw(rows, 'random')
        style.write_figure(tmp_path / 'a.png', made)
    titles = [place.get_title() for place in made.axes[:5]]
    assert titles == ['random', 'published', '', '', 'random']
    assert (tmp_path / 'a.png').stat().st_size > 5000
