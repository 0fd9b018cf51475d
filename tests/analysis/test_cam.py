"""Grad-CAM and Eigen-CAM of maps whose answer can be worked out by hand."""

import math

import pytest
import torch
from torch import nn

from mmssm.analysis import cam, style


def test_grad_cam_by_hand():
    maps = torch.tensor([[[[1.0, 2], [3, 4]], [[4.0, 0], [0, 1]]]], requires_grad=True)
    score = (maps[0, 0] * torch.tensor([[4.0, 0], [0, 0]])).sum() - maps[0, 1].sum()
    # weights are the mean gradients 1 and -1
    (found,) = cam.gradient_cams([maps], score)
    assert found.tolist() == [[0, 2], [3, 3]]


def test_hires_cam_by_hand():
    maps = torch.tensor([[[[1.0, 2], [3, 4]], [[4.0, 0], [0, 1]]]], requires_grad=True)
    score = (maps[0, 0] * torch.tensor([[5.0, 0], [0, 2]])).sum() - maps[0, 1].sum()
    (found,) = cam.gradient_cams([maps], score, cam.HIRES_CAM)
    assert found.tolist() == [[1, 0], [0, 7]]


def test_grad_cam_is_a_class_activation_map_behind_a_mean():
    """Where a Linear follows the mean, the weights are its own (the first CAM)."""
    torch.manual_seed(0)
    head = nn.Linear(5, 3).double()
    maps = torch.randn(1, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    score = head(maps.mean((2, 3)))[0, 1]
    (found,) = cam.gradient_cams([maps], score)
    expected = torch.einsum('c,chw->hw', head.weight[1], maps[0]).relu() / 24
    torch.testing.assert_close(found, expected.detach())


def test_several_maps_and_one_that_is_not_used():
    one, two = (torch.ones(1, 2, s, s, requires_grad=True) for s in (4, 2))
    used, unused = cam.gradient_cams([one, two], one.sum())
    assert (used == 2).all()
    assert (unused == 0).all()
    assert unused.shape == (2, 2)
    again, _ = cam.gradient_cams([one, two], 3 * one.sum())  # the graph is still there
    assert (again == 6).all()


def test_scores_without_a_way_to_the_maps():
    maps = torch.ones(1, 2, 3, 3, requires_grad=True)
    with pytest.raises(ValueError, match="'cam'; expected one of grad-cam, hires-cam"):
        cam.gradient_cams([maps], maps.sum(), 'cam')
    with pytest.raises(ValueError, match='without one'):
        cam.gradient_cams([maps], torch.tensor(1.0))
    with pytest.raises(ValueError, match='does not depend'):
        cam.gradient_cams([maps], torch.ones(1, requires_grad=True).sum())


def test_eigen_cam_finds_the_object():
    maps = torch.zeros(1, 4, 6, 8)
    maps[0, :, 2:4, 5:7] = torch.tensor([1.0, -2, 0, 3])[:, None, None]
    found = cam.eigen_cam(maps)
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[2:4, 5:7] = True
    assert torch.equal(found > 1e-6, inside)
    assert torch.equal(cam.eigen_cam(-maps) > 1e-6, inside)
    assert cam.share_inside(found, inside) == pytest.approx(1)


def test_eigen_cam_of_flat_maps_is_zero():
    assert (cam.eigen_cam(torch.ones(1, 3, 2, 2)) == 0).all()


def test_maps_of_several_sizes_count_alike():
    large, small = torch.zeros(4, 4), torch.zeros(2, 2)
    large[:, :2], small[:, 1] = 100.0, 1.0
    found = cam.together([large, small], (8, 8))
    assert found.shape == (8, 8)
    assert found.max() == 1
    torch.testing.assert_close(found, found.flip(1), atol=0.3, rtol=0)
    assert (cam.together([torch.zeros(2, 2)], (4, 4)) == 0).all()


def test_share_inside():
    heat = torch.tensor([[3.0, 1.0]])
    assert cam.share_inside(heat, torch.tensor([[True, False]])) == 0.75
    assert math.isnan(cam.share_inside(0 * heat, torch.tensor([[True, False]])))


def test_drawing(tmp_path):
    image = torch.rand(3, 12, 16)
    panel = cam.Panel('a', torch.rand(12, 16), (1, 2, 3, 4))
    rows = [('x', [cam.Panel('picture', image=image)]), ('y', [None, panel])]
    with style.styled():
        made = cam.draw(image, rows)
        style.write_figure(tmp_path / 'a.png', made)
    assert made.axes[3].patches[-1].get_xy() == (1.5, 0.5)
