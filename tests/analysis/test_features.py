"""Principal components and norms of maps, by hand."""

import torch
from torch import nn

from mmssm.analysis import features, style
from mmssm.backbones import SpatialMamba


def test_one_pattern_is_one_component():
    pattern = torch.linspace(0, 1, 12).reshape(3, 4)
    maps = torch.stack([2 * pattern, -pattern, 0 * pattern])
    picture, shares = features.principal_colours(maps)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0, 0]).double())
    # the largest loading is that of the first channel: bright where it is large
    assert (picture[0].flatten().diff() >= 0).all()
    assert picture[0].min() == 0
    assert picture[0].max() == 1
    assert (picture[1:] == 0.5).all()


def test_shares_of_two_directions():
    a = torch.tensor([1.0, -1, 1, -1]).reshape(2, 2)
    b = torch.tensor([1.0, 1, -1, -1]).reshape(2, 2)
    _, shares = features.principal_colours(torch.stack([3 * a, b]))
    torch.testing.assert_close(shares, torch.tensor([0.9, 0.1, 0]).double())


def test_a_rotation_of_the_channels_changes_no_more_than_signs():
    torch.manual_seed(0)
    maps = torch.randn(5, 6, 7) * torch.tensor([9.0, 5, 3, 1, 1])[:, None, None]
    turned = torch.linalg.qr(torch.randn(5, 5))[0]
    one, shares = features.principal_colours(maps)
    two, others = features.principal_colours(torch.einsum('dc,chw->dhw', turned, maps))
    torch.testing.assert_close(shares, others, rtol=1e-4, atol=0)
    for a, b in zip(one, two, strict=True):
        gaps = [(a - b).abs().max(), (a - (1 - b)).abs().max()]
        assert min(gaps) < 1e-3


def test_maps_with_less_than_three_components():
    for shape in ((1, 1, 1), (2, 1, 3), (4, 1, 1)):
        picture, shares = features.principal_colours(torch.ones(shape))
        assert picture.shape == (3, *shape[1:])
        assert (picture == 0.5).all()
        assert shares.sum() == 0


def test_norms():
    maps = torch.tensor([3.0, 4.0]).reshape(2, 1, 1).expand(2, 2, 3)
    assert (features.channel_norm(maps) == 5).all()


def test_contrast():
    found = features.contrast(torch.tensor([[1.0, 3.0, 5.0]]))
    assert found.tolist() == [[0, 0.5, 1]]
    assert (features.contrast(torch.full((2, 2), 7.0)) == 0).all()


def test_maps_before_the_norms_of_the_outputs():
    torch.manual_seed(0)
    arch = dict(channels=8, depths=(1, 1))
    model = SpatialMamba(arch, out_indices=(0, 1)).eval()
    x = torch.randn(1, 3, 33, 40)
    for values, output, name in zip(
        features.stage_maps(model, x), model(x), '01', strict=True
    ):
        expected = model.out_norms[name](values[None])
        torch.testing.assert_close(output, expected)
    plain = nn.Conv2d(3, 4, 3)
    (only,) = features.stage_maps(plain, x)
    assert torch.equal(only, plain(x)[0])


def test_drawing(tmp_path):
    image = torch.rand(3, 16, 20)
    maps = [torch.randn(4, 8, 10), torch.randn(6, 4, 5)]
    with style.styled():
        made = features.draw(image, {'a': maps, 'b': maps[:1]})
        style.write_figure(tmp_path / 'a.png', made)
    assert len(made.axes) == 12
    first, second = features.summary(maps)
    assert first['shape'] == [4, 8, 10]
    assert (
        second['norm']['largest'] > second['norm']['mean'] > second['norm']['smallest']
    )
